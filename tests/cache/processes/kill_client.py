"""A client that writes, reads and deletes templates until its standard input ends, whatever becomes of the service.

    python kill_client.py SOCKET NAME OTHER SEED ARENA

A template's name says how large it is, and its records' bytes follow from their keys, so that a wrong byte is seen. It
tells on its standard output, a line each:

    durable TEMPLATE    it was committed and flushed
    deleting TEMPLATE   it is about to be deleted
    wrong TEXT          it read what nobody wrote
    ended COUNTS        what it has done, by kind, as JSON
"""

from __future__ import annotations

import json
import os
import random
import select
import sys
from collections import Counter, deque

from instgenie_cache import CacheError, TemplateSize
from instgenie_cache.client.service_link import LinkSettings
from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.messages import ArenaUse
from tests.cache.named_templates import name_of, record_of, size_of, write

SIZES = [TemplateSize(1, 1, 300), TemplateSize(3, 2, 5000), TemplateSize(4, 3, 40_000), TemplateSize(2, 2, 300_000)]
MOST_KEPT = 30  # templates of one client; older ones are deleted
LINK = LinkSettings(
    deadline_seconds=30,
    step_seconds=30,
    write_seconds=30,
    retry_seconds=0.005,
    retry_max_seconds=0.05,
    retry_jitter_seconds=0.02,
)


class KillClient:
    """Does one random thing after another. Whatever is refused or lost is counted, no more."""

    def __init__(self, store: ServiceStore, name: str, other: str, chance: random.Random) -> None:
        self._store, self._name, self._other, self._chance = store, name, other, chance
        self._written: deque[str] = deque()
        self._number = 0
        self.counts: Counter[str] = Counter()

    def work(self) -> None:
        """One thing."""
        what = self._chance.choices([self._write, self._read, self._read_other, self._abort], [5, 4, 2, 1])[0]
        try:
            what()
        except CacheError as error:
            self.counts[f"error {type(error).__name__}"] += 1

    def _write(self) -> None:
        size = self._chance.choice(SIZES)
        self._number += 1
        template = name_of(f"{self._name}/{self._number}", size)
        cost_ms, spare_steps = self._chance.uniform(0, 1000), self._chance.randrange(3)
        write(self._store, template, cost_ms, spare_steps=spare_steps)
        self._written.append(template)
        self.counts["written"] += 1
        if self._chance.random() < 0.5:
            self._store.flush()
            tell(f"durable {template}")
            self.counts["durable"] += 1
        if len(self._written) > MOST_KEPT:
            oldest = self._written.popleft()
            tell(f"deleting {oldest}")
            self._store.delete(oldest)

    def _abort(self) -> None:
        size = self._chance.choice(SIZES)
        self._number += 1
        template = name_of(f"{self._name}/{self._number}", size)
        keys = [(step, block) for step in range(size.steps) for block in range(size.blocks)]
        with self._store.create(template, size) as writer:
            for step, block in keys[: self._chance.randrange(size.records)]:
                writer.put(step, block, record_of(template, step, block))
        self.counts["aborted"] += 1

    def _read(self) -> None:
        if self._written:
            self._check(self._chance.choice(self._written))

    def _read_other(self) -> None:
        number = max(1, self._number - self._chance.randrange(MOST_KEPT))
        self._check(name_of(f"{self._other}/{number}", self._chance.choice(SIZES)))

    def _check(self, template: str) -> None:
        lease = self._store.lease(template)
        if lease is None:
            self.counts["missed"] += 1
            return
        size = size_of(template)
        with lease:
            for step in range(size.steps):
                records = lease.step(step)
                if records is None:
                    self.counts["lost steps"] += 1
                    continue
                found = list(records)
                is_right = found == [record_of(template, step, block) for block in range(size.blocks)]
                if not is_right and lease.is_valid:  # else the memory may be another step's by now, as is allowed
                    tell(f"wrong {template}, step {step}")
                self.counts["read"] += is_right


def tell(line: str) -> None:
    """To the test."""
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


def main() -> None:
    """Work until the standard input ends."""
    socket, name, other, seed, arena = sys.argv[1:]
    use: ArenaUse = "read" if arena == "read" else "none"
    store = ServiceStore.open(Address.parse(socket), client=name, arena=use, settings=LINK)
    client = KillClient(store, name, other, random.Random(int(seed)))
    while not select.select([sys.stdin], [], [], 0 if store.is_connected else 0.01)[0]:
        client.work()
    client.counts["unreachable"] = store.misses_unreachable
    tell(f"ended {json.dumps(client.counts)}")
    store.close()


if __name__ == "__main__":
    main()
