"""Clients that do random things to a service at the same time, and a model that knows what they may find."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from instgenie_cache import (
    BeingWrittenError,
    CacheError,
    Record,
    RecordKey,
    RecordStore,
    StoreFullError,
    TemplateLease,
    TemplateSize,
)
from tests.cache.named_templates import name_of, size_of
from tests.cache.templates import payload

SIZES = [TemplateSize(1, 1, 200), TemplateSize(2, 2, 9000), TemplateSize(3, 1, 60_000)]
NAMESPACES = ("x", "y", "")
TEMPLATES = [name_of(f"{space}/{n}" if space else f"{n}", SIZES[n % 3]) for space in NAMESPACES for n in range(9)]
MOST_HELD = 1  # lease that a client keeps for later
_VERSION_BYTES = 4


@dataclass(slots=True, eq=False)
class KnownTemplate:
    """What is known of a template by whoever has its lock. Each writing of it is a version of its own.

    Attributes:
        versions: of which one is there, unless it was evicted; none of them where it is not there.
        pinned_by: clients; while there are any it is not evicted.
        last: version that was written last.
        abandoned: a client left while it wrote, so that the service may take it for being written yet.
    """

    name: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    versions: set[int] = field(default_factory=set)
    pinned_by: set[str] = field(default_factory=set)
    last: int = 0
    abandoned: bool = False


class Model:
    """All templates, and how many were found to be evicted."""

    def __init__(self) -> None:
        self.templates = {name: KnownTemplate(name) for name in TEMPLATES}
        self._lock = threading.Lock()
        self.missing = 0

    def is_missing(self, known: KnownTemplate) -> None:
        """A template that was committed is not there: it was evicted, which it must not while it is pinned."""
        assert not known.pinned_by, f"{known.name} is gone, pinned by {known.pinned_by}"
        known.versions.clear()
        with self._lock:
            self.missing += 1


def record_of(template: str, version: int, step: int, block: int) -> Record:
    """A record begins with its template's version."""
    num_bytes = size_of(template).record_bytes
    rest = payload(RecordKey(f"{template}@{version}", step, block), num_bytes - _VERSION_BYTES)
    return Record("raw", "uint8", (num_bytes,), memoryview(version.to_bytes(_VERSION_BYTES) + rest))


def version_of(template: str, step: int, records: Sequence[Record]) -> int:
    """The version of a step that was read, all of whose bytes are compared."""
    version = int.from_bytes(records[0].payload[:_VERSION_BYTES])
    expected = [record_of(template, version, step, block) for block in range(size_of(template).blocks)]
    assert list(records) == expected, f"wrong bytes in step {step} of {template}"
    return version


class RandomClient:
    """One client: its connection, the namespace that it is bound to, and what it does."""

    def __init__(
        self, name: str, connect: Callable[[], RecordStore], namespace: str | None, model: Model, chance: random.Random
    ) -> None:
        self._name, self._connect, self._namespace = name, connect, namespace
        self._model, self._chance = model, chance
        self._store = connect()
        self._leases: list[tuple[TemplateLease, str, int]] = []
        self.counts: Counter[str] = Counter()

    def work(self, operations: int) -> Counter[str]:
        """Do so many random things, then leave."""
        doings: Mapping[Callable[[KnownTemplate], None], int] = {
            self._write: 5,
            self._read: 5,
            self._read_unasked: 4,
            self._hold: 2,
            self._read_held: 3,
            self._delete: 1,
            self._pin: 1,
            self._ask: 2,
            self._abandon: 1,
        }
        for _ in range(operations):
            known = self._model.templates[self._chance.choice(TEMPLATES)]
            if self._sees(known.name):
                do = self._chance.choices(list(doings), list(doings.values()))[0]
                do(known)
                self.counts[do.__name__] += 1
            else:
                self._trespass(known)
                self.counts["trespass"] += 1
        self._leave()
        return self.counts

    def _sees(self, template: str) -> bool:
        return self._namespace is None or template.startswith(f"{self._namespace}/")

    def _write(self, known: KnownTemplate) -> None:
        with known.lock:
            known.last += 1
            version, size = known.last, size_of(known.name)
            try:
                with self._store.create(known.name, size) as writer:
                    for step in range(size.steps):
                        for block in range(size.blocks):
                            writer.put(step, block, record_of(known.name, version, step, block))
                    writer.commit(self._chance.uniform(0, 100))
            except BeingWrittenError:
                assert known.abandoned, f"{known.name} is being written by nobody"
                self.counts["refused, being written"] += 1
                return
            except StoreFullError:  # much is pinned, or waits to be written to the disk
                self.counts["refused, full"] += 1
                return
            known.abandoned = False
            if known.pinned_by:
                return  # the one that was there stays
            known.versions.add(version)  # unless that was so, too
            if len(known.versions) == 1:
                self._read_known(known)

    def _read(self, known: KnownTemplate) -> None:
        with known.lock:
            self._read_known(known)

    def _read_known(self, known: KnownTemplate) -> None:
        lease = self._store.lease(known.name)
        if lease is None:
            if known.versions:
                self._model.is_missing(known)
            return
        with lease:
            steps = range(size_of(known.name).steps)
            found = {version_of(known.name, step, lease.step(step) or ()) for step in steps}
        assert len(found) == 1, f"{known.name} is a mixture of the versions {found}"
        assert found <= known.versions, f"{known.name} has the version {found}, not one of {known.versions}"
        known.versions = found

    def _read_unasked(self, known: KnownTemplate) -> None:
        """Read while others may be writing or deleting: of one version, or lost."""
        lease = self._store.lease(known.name)
        if lease is None:
            return
        with lease:
            found = set()
            for step in range(size_of(known.name).steps):
                records = self._records(lease, known.name, step)
                if records is None:  # deleted meanwhile
                    break
                found.add(version_of(known.name, step, records))
        assert len(found) <= 1, f"{known.name} is a mixture of the versions {found}"

    def _records(self, lease: TemplateLease, template: str, step: int) -> Sequence[Record] | None:
        """All of a step's, read at once or in two parts."""
        if self._chance.random() < 0.5:
            return lease.step(step)
        blocks = size_of(template).blocks
        middle = self._chance.randint(0, blocks)
        parts = lease.blocks(step, 0, middle), lease.blocks(step, middle, blocks)
        self.counts["blocks"] += 1
        return None if parts[0] is None or parts[1] is None else [*parts[0], *parts[1]]

    def _hold(self, known: KnownTemplate) -> None:
        """Take a lease for later."""
        lease = self._store.lease(known.name)
        if lease is None:
            return
        records = lease.step(0)
        if records is None or len(self._leases) == MOST_HELD:
            lease.release()
            return
        self._leases.append((lease, known.name, version_of(known.name, 0, records)))

    def _read_held(self, _: KnownTemplate) -> None:
        """Whatever happened since, it is the template that was leased."""
        if not self._leases:
            return
        lease, template, version = self._leases.pop(self._chance.randrange(len(self._leases)))
        with lease:
            for step in range(size_of(template).steps):
                records = self._records(lease, template, step)
                assert records is not None or step, "a step that was read before is lost under its lease"
                assert records is None or version_of(template, step, records) == version

    def _delete(self, known: KnownTemplate) -> None:
        with known.lock:
            self._store.delete(known.name)
            known.versions.clear()
            known.pinned_by.clear()
            assert not self._store.holds(known.name)

    def _pin(self, known: KnownTemplate) -> None:
        with known.lock:
            if self._name in known.pinned_by:
                self._store.unpin(known.name)
                known.pinned_by.discard(self._name)
            elif self._store.pin(known.name):
                assert known.versions
                known.pinned_by.add(self._name)
                self._read_known(known)
            elif known.versions:
                self._model.is_missing(known)

    def _ask(self, known: KnownTemplate) -> None:
        with known.lock:
            num_bytes = self._store.num_bytes(known.name)
            if num_bytes is None:
                if known.versions:
                    self._model.is_missing(known)
            else:
                assert known.versions
                assert num_bytes == size_of(known.name).num_bytes
        stats = self._store.stats()
        seen = [template for template in TEMPLATES if self._sees(template)]
        assert stats.templates <= len(seen)
        # A template that is written for nothing, because it is there, counts as well.
        assert stats.used_bytes <= 2 * sum(size_of(template).num_bytes for template in seen)

    def _abandon(self, known: KnownTemplate) -> None:
        """Leave in the middle of writing, and come back over a new connection."""
        with known.lock:
            with suppress(CacheError):
                writer = self._store.create(known.name, size_of(known.name))
                known.abandoned = True
                writer.put(0, 0, record_of(known.name, 0, 0, 0))
            self._leave()
        self._store = self._connect()

    def _leave(self) -> None:
        """Close the connection, with leases, writers and pins on it."""
        for known in self._model.templates.values():
            known.pinned_by.discard(self._name)
        self._leases.clear()
        self._store.close()

    def _trespass(self, known: KnownTemplate) -> None:
        """Another tenant's template: not to be seen, and not to be touched."""
        store, template = self._store, known.name
        assert store.lease(template) is None
        assert not store.holds(template)
        assert store.num_bytes(template) is None
        assert not store.pin(template)
        store.unpin(template)
        store.delete(template)
        try:
            store.create(template, size_of(template))
        except CacheError as error:
            assert "namespace" in str(error)  # noqa: PT017 - an AssertionError is next where there is none
        else:
            raise AssertionError(f"client {self._name} may write {template}")
