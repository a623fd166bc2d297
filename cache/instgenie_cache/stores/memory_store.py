"""Records in this process's memory, least recently used templates evicted first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

from instgenie_cache.errors import CacheError, StoreFullError
from instgenie_cache.records.manifest import check_note
from instgenie_cache.records.record import Record
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.stores.store import StoreStats, TemplateLease, TemplateWriter
from instgenie_cache.tiers.tier import TierName


@dataclass(slots=True, eq=False)
class _Template:
    """A committed template and how many read it."""

    size: TemplateSize
    records: dict[tuple[int, int], Record]
    num_bytes: int
    note: bytes
    leases: int = 0
    pinned: bool = False

    @property
    def is_held(self) -> bool:
        """Whether it must not be evicted."""
        return self.pinned or self.leases > 0


class MemoryStore:
    """A `RecordStore` in ordinary memory, whole templates at a time, within a byte budget.

    Announced bytes are set aside at once: writers do not take each other's room; templates are evicted only as records
    arrive. A template that is leased or pinned is not evicted, so a lease or pin that came later may still refuse a
    record. One that is deleted under lease stays in memory, outside the budget, until its readers are done.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._committed_bytes = 0  # of committed templates
        self._pending_bytes = 0  # put by writers
        self._announced_bytes = 0  # by writers, what they have put included
        self._committed: OrderedDict[str, _Template] = OrderedDict()
        self._open: dict[str, set[_Writer]] = {}
        self._hits = self._misses = self._evicted = 0
        self._lock = threading.Lock()

    def create(self, template: str, size: TemplateSize) -> TemplateWriter:
        """See `RecordStore`."""
        with self._lock:
            taken = self._announced_bytes + sum(t.num_bytes for t in self._committed.values() if t.is_held)
            if taken + size.num_bytes > self._budget_bytes:
                raise StoreFullError(
                    f"a template of {size.num_bytes} bytes does not fit: {taken} of {self._budget_bytes} bytes are "
                    "being written, leased or pinned"
                )
            self._announced_bytes += size.num_bytes
            writer = _Writer(self, template, size)
            self._open.setdefault(template, set()).add(writer)
            return writer

    def lease(self, template: str) -> TemplateLease | None:
        """See `RecordStore`."""
        with self._lock:
            held = self._committed.get(template)
            if held is None:
                self._misses += 1
                return None
            self._hits += 1
            self._committed.move_to_end(template)
            held.leases += 1
            return _Lease(self, held)

    def holds(self, template: str) -> bool:
        """See `RecordStore`."""
        with self._lock:
            return template in self._committed

    def num_bytes(self, template: str) -> int | None:
        """See `RecordStore`."""
        with self._lock:
            held = self._committed.get(template)
            return None if held is None else held.num_bytes

    def prefetch(self, template: str) -> None:
        """See `RecordStore`. All of it is in memory."""

    def delete(self, template: str) -> None:
        """See `RecordStore`."""
        with self._lock:
            held = self._committed.pop(template, None)
            if held is not None:
                self._committed_bytes -= held.num_bytes
            self._open.pop(template, None)  # their commits come to nothing

    def pin(self, template: str) -> bool:
        """See `RecordStore`."""
        return self._set_pinned(template, True)

    def unpin(self, template: str) -> None:
        """See `RecordStore`."""
        self._set_pinned(template, False)

    def flush(self) -> None:
        """See `RecordStore`. Memory is as durable as it gets."""

    def close(self) -> None:
        """See `RecordStore`. The store is empty afterwards; what writers have open of it will not become visible."""
        with self._lock:
            self._committed.clear()
            self._open.clear()
            self._committed_bytes = 0

    def stats(self) -> StoreStats:
        """See `RecordStore`."""
        with self._lock:
            return StoreStats(
                len(self._committed),
                self._committed_bytes + self._pending_bytes,
                self._budget_bytes,
                self._hits,
                self._misses,
                self._evicted,
            )

    def _set_pinned(self, template: str, pinned: bool) -> bool:
        with self._lock:
            held = self._committed.get(template)
            if held is not None:
                held.pinned = pinned
            return held is not None

    # What writers and leases call; they hold no lock of their own.

    def _make_room(self, num_bytes: int) -> None:
        """Evict for a writer that is about to put `num_bytes` of what it announced.

        Raises:
            StoreFullError: templates that were leased or pinned since leave no room.
        """
        with self._lock:
            missing = self._committed_bytes + self._pending_bytes + num_bytes - self._budget_bytes
            victims = []
            for template, held in self._committed.items():
                if missing <= 0:
                    break
                if not held.is_held:
                    victims.append(template)
                    missing -= held.num_bytes
            if missing > 0:
                raise StoreFullError(f"a record of {num_bytes} bytes does not fit: the rest is leased or pinned")
            for template in victims:
                self._committed_bytes -= self._committed.pop(template).num_bytes
                self._evicted += 1
            self._pending_bytes += num_bytes

    def _finish(
        self, writer: _Writer, template: str, announced_bytes: int, put_bytes: int, made: _Template | None
    ) -> None:
        """End a writer, with what becomes visible or with None."""
        with self._lock:
            self._announced_bytes -= announced_bytes
            self._pending_bytes -= put_bytes
            writers = self._open.get(template, set())
            is_wanted = writer in writers
            writers.discard(writer)
            if not writers:
                self._open.pop(template, None)
            if made is not None and is_wanted and template not in self._committed:
                self._committed[template] = made
                self._committed_bytes += made.num_bytes

    def _release(self, held: _Template) -> None:
        with self._lock:
            held.leases -= 1


class _Writer(AbstractContextManager["_Writer"]):
    """A `TemplateWriter` of a `MemoryStore`. For one thread at a time."""

    def __init__(self, store: MemoryStore, template: str, size: TemplateSize) -> None:
        self._store, self._template, self._size = store, template, size
        self._records: dict[tuple[int, int], Record] = {}
        self._put_bytes = 0
        self._is_open = True

    def put(self, step: int, block: int, record: Record) -> None:
        self._check_open()
        if not self._size.has(step, block):
            self.abort()
            raise CacheError(
                f"step {step}, block {block} of a template of {self._size.steps} x {self._size.blocks} records"
            )
        if record.num_bytes != self._size.record_bytes:
            self.abort()
            raise CacheError(f"a record of {record.num_bytes} bytes, {self._size.record_bytes} were announced")
        more_bytes = 0 if (step, block) in self._records else record.num_bytes
        try:
            self._store._make_room(more_bytes)
        except StoreFullError:
            self.abort()
            raise
        self._put_bytes += more_bytes
        self._records[step, block] = record

    def commit(
        self,
        cost_ms: float = 0.0,  # noqa: ARG002 - least recently used goes first, whatever it cost
        *,
        steps: int | None = None,
        note: bytes = b"",
    ) -> None:
        self._check_open()
        try:
            size = self._size.of_steps(steps)
            check_note(note)
            size.check_whole([step for step, _ in self._records])
        except CacheError:
            self.abort()
            raise
        self._finish(_Template(size, self._records, self._put_bytes, note))

    def abort(self) -> None:
        if self._is_open:
            self._finish(None)

    def _finish(self, made: _Template | None) -> None:
        self._is_open = False
        self._store._finish(self, self._template, self._size.num_bytes, self._put_bytes, made)
        self._records = {}

    def _check_open(self) -> None:
        if not self._is_open:
            raise CacheError("the writer was committed or aborted before")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


class _Lease(AbstractContextManager["_Lease"]):
    """A `TemplateLease` of a `MemoryStore`."""

    def __init__(self, store: MemoryStore, held: _Template) -> None:
        self._store, self._held = store, held
        self._is_open = True

    @property
    def tier(self) -> TierName:
        return "host"

    @property
    def note(self) -> bytes:
        return self._held.note

    @property
    def is_valid(self) -> bool:
        return self._is_open

    def prefetch(self, steps: Iterable[int]) -> None:
        pass

    def step(self, step: int) -> Sequence[Record] | None:
        return self.blocks(step, 0, self._held.size.blocks)

    def blocks(self, step: int, first: int, stop: int) -> Sequence[Record] | None:
        self._check_open()
        if not self._held.size.has_blocks(step, first, stop):
            return None
        return [self._held.records[step, block] for block in range(first, stop)]

    def tiers(self) -> Sequence[TierName]:
        self._check_open()
        return ["host"] * self._held.size.steps

    def release(self) -> None:
        if self._is_open:
            self._is_open = False
            self._store._release(self._held)

    def _check_open(self) -> None:
        if not self._is_open:
            raise CacheError("the lease was released before")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
