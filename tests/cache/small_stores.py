"""Stores of every kind, small enough to fill, and records to put into them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from instgenie_cache import CacheError, Record, RecordStore, StoreFullError, TemplateSize, TierName
from instgenie_cache.eviction import PolicyName
from instgenie_cache.policies import make_policy
from instgenie_cache.records.manifest import Manifest
from instgenie_cache.records.record import RecordKey, decode_record
from instgenie_cache.records.slab import Slab
from instgenie_cache.stores.observer import StoreObserver
from instgenie_cache.stores.replicator import ReplicatorTimes
from instgenie_cache.stores.tiered_store import TieredStore
from instgenie_cache.tiers.arena import Arena
from instgenie_cache.tiers.host_tier import HostTier
from instgenie_cache.tiers.tier import ColdTier

PAGE_BYTES = 4096
RECORD_BYTES = 3840  # with its header, a page; so a step of one block is one page


def record_of(fill: int, num_bytes: int = RECORD_BYTES) -> Record:
    """A record full of one value."""
    return Record("raw", "uint8", (num_bytes,), memoryview(bytes([fill % 256]) * num_bytes))


def fill_of(record: Record) -> int:
    """The value that a record is full of.

    Raises:
        AssertionError: it has several.
    """
    values = set(bytes(record.payload))
    assert len(values) == 1, f"a record has the values {sorted(values)[:10]}"
    return values.pop()


def fill_template(store: RecordStore, template: str, size: TemplateSize, first: int = 0) -> None:
    """Write a whole template; record (step, block) is full of first + step * blocks + block."""
    with store.create(template, size) as writer:
        for step in range(size.steps):
            for block in range(size.blocks):
                writer.put(step, block, record_of(first + step * size.blocks + block, size.record_bytes))
        writer.commit(cost_ms=10.0)


def read_template(store: RecordStore, template: str, size: TemplateSize) -> list[list[int] | None] | None:
    """The values of each step's records, None for a lost step, None where the template is not there."""
    lease = store.lease(template)
    if lease is None:
        return None
    with lease:
        steps = []
        for step in range(size.steps):
            records = lease.step(step)
            steps.append(None if records is None else [fill_of(record) for record in records])
        return steps


def values_of(size: TemplateSize, first: int = 0) -> list[list[int]]:
    """What `read_template` gives of a template that `fill_template` wrote."""
    return [[(first + step * size.blocks + block) % 256 for block in range(size.blocks)] for step in range(size.steps)]


class FakeTier:
    """A tier below the host in a dictionary. Calls can be made to fail, and writes to wait.

    Attributes:
        broken: a `CacheError` that every call raises, or None.
        fault: why nothing outlives the next start, or None; writes are taken all the same.
        full_after: steps that are taken before the disk is full.
        gate, delete_gate: writes and deletions wait until they are set.
        undeletable, undeletable_names: deletions fail, of all or of these.
        read_limit: reads that succeed before others fail.
        writes: steps of every `write_steps`, in order.
        reads: steps that were read, or some blocks of them.
        deletions: templates that were to be deleted, whatever became of it.
        read_blocks: which blocks that were, None for all.
    """

    def __init__(
        self,
        budget_bytes: int | None = None,
        name: TierName = "disk",
        content: FakeTier | None = None,
        *,
        is_shared: bool = False,
    ) -> None:
        """With `content`, what another one holds, as after a restart or on another machine."""
        self.name: TierName = name
        self.budget_bytes, self.is_shared = budget_bytes, is_shared
        self.records: dict[RecordKey, bytes] = {} if content is None else content.records
        self.committed: dict[str, Manifest] = {} if content is None else content.committed
        self.writings: dict[RecordKey, str] = {} if content is None else content.writings  # whose records they are
        self.broken: CacheError | None = None
        self.fault: str | None = None
        self.full_after: int | None = None
        self.gate = threading.Event()
        self.delete_gate = threading.Event()
        self.gate.set()
        self.delete_gate.set()
        self.undeletable = False
        self.undeletable_names: set[str] = set()
        self.read_limit: int | None = None
        self.writes: list[list[int]] = []
        self.reads: list[tuple[str, int]] = []
        self.read_blocks: list[range | None] = []
        self.deletions: list[str] = []
        self.is_closed = False
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        with self._lock:
            return sum(len(data) for data in self.records.values())

    def footprint_bytes(self, size: TemplateSize, note_bytes: int = 0) -> int:
        return size.records * size.stored_record_bytes

    def manifests(self) -> Iterable[Manifest]:
        self._check()
        return tuple(self.committed.values())

    def manifest(self, template: str) -> Manifest | None:
        self._check()
        return self.committed.get(template)

    def write_steps(
        self, template: str, size: TemplateSize, steps: Sequence[tuple[int, Slab]], writing: str = ""
    ) -> None:
        assert self.gate.wait(10)
        self._check()
        if self.is_shared:
            self.committed.pop(template, None)
        assert template not in self.committed, "written over a committed template"
        self.writes.append([step for step, _ in steps])
        for step, slab in steps:
            if self.full_after is not None:
                self.full_after -= 1
                if self.full_after < 0:
                    raise StoreFullError("the disk is full")
            with self._lock:
                for block in range(size.blocks):
                    data = bytes(slab.read(size.offset(block), size.stored_record_bytes))
                    self.records[RecordKey(template, step, block)] = data
                    self.writings[RecordKey(template, step, block)] = writing
        assert self.budget_bytes is None or self.used_bytes <= self.budget_bytes, "the owner went over the budget"

    def commit(self, manifest: Manifest) -> None:
        self._check()
        size = manifest.size
        keys = {RecordKey(manifest.template, step, b) for step in range(size.steps) for b in range(size.blocks)}
        assert keys <= self.records.keys(), "a manifest without its records"
        self.committed[manifest.template] = manifest

    def read_step(
        self,
        template: str,
        size: TemplateSize,
        step: int,
        slab: Slab,
        blocks: range | None = None,
        writing: str = "",
    ) -> bool:
        self._check()
        if self.read_limit is not None:
            self.read_limit = max(-1, self.read_limit - 1)
            if self.read_limit < 0:
                raise CacheError("cannot be read")
        self.reads.append((template, step))
        self.read_blocks.append(blocks)
        for place, block in enumerate(blocks or range(size.blocks)):
            key = RecordKey(template, step, block)
            with self._lock:
                data = self.records.get(key)
            if data is None or (self.is_shared and self.writings.get(key, writing) != writing):
                return False
            slab.write(size.offset(place), data)
            decode_record(slab.read(size.offset(place), size.stored_record_bytes), key)
        return True

    def delete(self, template: str) -> None:
        assert self.delete_gate.wait(10)
        self.deletions.append(template)
        self._check()
        if self.undeletable or template in self.undeletable_names:
            raise CacheError("cannot be deleted")
        self.committed.pop(template, None)
        with self._lock:
            for key in [key for key in self.records if key.template == template]:
                del self.records[key]

    def sweep(self, should_stop: Callable[[], bool] = lambda: False) -> int:
        self._check()
        return 0

    def close(self) -> None:
        self.is_closed = True

    def flip(self, key: RecordKey, position: int = 1000) -> None:
        """Change a byte of a record."""
        data = bytearray(self.records[key])
        data[position] ^= 1
        self.records[key] = bytes(data)

    def _check(self) -> None:
        if self.broken is not None:
            raise self.broken


def tiered_store(
    *cold: ColdTier,
    pages: int = 16,
    policy: PolicyName = "lru",
    observer: StoreObserver | None = None,
    times: ReplicatorTimes | None = None,
) -> TieredStore:
    """A store with an arena of so many pages of 4 KiB; `cold` are the tiers below."""
    host = HostTier(Arena.create(pages * PAGE_BYTES, PAGE_BYTES), make_policy(policy))
    return TieredStore(host, cold, make_policy(policy), observer, times)
