"""Writing a template into a tiered store."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from instgenie_cache.errors import CacheError, RecordFormatError, StoreFullError
from instgenie_cache.records.manifest import check_note
from instgenie_cache.records.record import HEADER_BYTES, Record, RecordKey, decode_record, encode_header
from instgenie_cache.records.slab import Slab
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.stores.store_state import StoreState
from instgenie_cache.stores.template_entry import TemplateEntry
from instgenie_cache.stores.write_behind import WriteBehind

ROOM_SECONDS = 2.0  # that a put waits for memory, while steps are being written to disk or read


class TieredWriter(AbstractContextManager["TieredWriter"]):
    """A `TemplateWriter` of a `TieredStore`. For one thread at a time.

    A record that comes from elsewhere is received in the arena itself: `slot` gives its memory, `filled` checks it.
    """

    def __init__(
        self,
        state: StoreState,
        behind: WriteBehind | None,
        entry: TemplateEntry,
        on_committed: Callable[[TemplateEntry], None],
        lasting: TemplateEntry,
    ) -> None:
        """Args:
        on_committed: called, under the lock, where no tier is written to.
        lasting: the entry that readers will find: another one where the template is there already.
        """
        self._lasting = lasting
        self._state, self._behind, self._entry, self._on_committed = state, behind, entry, on_committed
        self._present: dict[int, set[int]] = {}  # blocks of each step
        self._is_open = True

    @property
    def size(self) -> TemplateSize:
        """What was announced, until the commit."""
        return self._entry.size

    @property
    def is_wanted(self) -> bool:
        """False where what is put comes to nothing: the template is there already, or was deleted meanwhile."""
        return not self._entry.is_gone

    def put(self, step: int, block: int, record: Record) -> None:
        """See `TemplateWriter`."""
        self._check(step, block)
        if record.num_bytes != self.size.record_bytes:
            self.abort()
            raise CacheError(f"a record of {record.num_bytes} bytes, {self.size.record_bytes} were announced")
        slab = self._slab(step, ROOM_SECONDS)
        if slab is None:
            if not self.is_wanted:
                return
            self.abort()
            raise StoreFullError(
                f"a step of {self.size.step_bytes} bytes does not fit: the rest of the host tier's "
                f"{self._state.host.total_bytes} bytes is in use"
            )
        offset = self.size.offset(block)
        try:
            slab.write(offset, encode_header(RecordKey(self._entry.template, step, block), record))
        except RecordFormatError:
            self.abort()
            raise
        slab.write(offset + HEADER_BYTES, record.payload)
        self._count_in(step, block)

    def slot(self, step: int, block: int) -> list[memoryview] | None:
        """Memory for the bytes of a record, header included; None where there is no room just now, or none is wanted.

        The memory may be written to until `filled`, `abort` or `commit`.

        Raises:
            CacheError: it is none of the announced records, or its step is complete; the writer is aborted.
            StoreFullError: there will be no room; the writer is aborted.
        """
        self._check(step, block)
        slab = self._slab(step, wait_seconds=0.0)
        if slab is None:
            return None
        return [view.data for view in slab.views(self.size.offset(block), self.size.stored_record_bytes)]

    def filled(self, step: int, block: int) -> None:
        """The record's bytes are in its slot: verify them.

        Raises:
            RecordFormatError: they are no such record; the writer is aborted.
        """
        slab = self._entry.reserved.get(step)
        if slab is None or self._entry.is_gone:  # the slot may have been no memory of the step's
            return
        size = self.size
        try:
            data = slab.read(size.offset(block), size.stored_record_bytes)
            decode_record(data, RecordKey(self._entry.template, step, block))
        except RecordFormatError:
            self.abort()
            raise
        self._count_in(step, block)

    def commit(self, cost_ms: float = 0.0, *, steps: int | None = None, note: bytes = b"") -> None:
        """See `TemplateWriter`.

        Raises:
            CacheError: a cost that is no time, or the store was closed.
        """
        self._check_open()
        with self._state.changed:
            self._raise_failure()
            try:
                size = self._committed_size(cost_ms, steps, note)
            except CacheError:
                self.abort()
                raise
            self._is_open = False
            if not self._state.commit(self._entry, size, cost_ms, note):
                self._free()
            elif self._behind is not None:
                self._behind.commit(self._entry)
            else:
                self._on_committed(self._entry)
            self._present.clear()

    def _committed_size(self, cost_ms: float, steps: int | None, note: bytes) -> TemplateSize:
        """What a commit makes of the template.

        Raises:
            CacheError: it cannot be committed like that.
        """
        if not 0 <= cost_ms < math.inf:
            raise CacheError(f"a cost of {cost_ms} ms")
        size = self.size.of_steps(steps)
        check_note(note)
        if not self._entry.is_gone:  # else not everything was put
            size.check_whole([step for step, blocks in self._present.items() for _ in blocks])
        return size

    def wait_durable(self) -> None:
        """Wait until what was committed is as durable as the store makes it.

        Raises:
            CacheError: the tier below did not take it, or loses it with the next start.
        """
        if self._behind is not None:
            self._behind.wait_durable(self._lasting)

    @property
    def is_durable(self) -> bool:
        """See `ServedWriter`."""
        return self._behind is None or self._state.is_settled(self._lasting)

    def abort(self) -> None:
        """See `TemplateWriter`. No slot may be written to any more."""
        if self._is_open:
            self._is_open = False
            with self._state.changed:
                (self._behind or self._state).drop(self._entry)
                self._free()

    def _raise_failure(self) -> None:
        """Tell the writer that its template could not be written to the tier below."""
        if self._entry.error is not None:
            self._is_open = False
            self._free()
            raise self._entry.error

    def _free(self) -> None:
        """Give the memory of incomplete steps back."""
        entry = self._entry
        for step in tuple(entry.reserved):
            del entry.reserved[step]
            self._state.host.cancel(entry.step_key(step))
        self._state.changed.notify_all()

    def _slab(self, step: int, wait_seconds: float) -> Slab | None:
        """Memory of a step; None where there is none in time, or nobody wants the template any more."""
        state, entry = self._state, self._entry
        until = time.monotonic() + wait_seconds
        with state.changed:
            while True:
                self._check_open()
                if entry.is_gone:
                    self._raise_failure()
                    return None
                if step in entry.reserved:
                    return entry.reserved[step]
                reservation = state.reserve(entry, step)
                if reservation is not None:
                    entry.reserved[step] = reservation.slab
                    return reservation.slab
                left = until - time.monotonic()
                if left <= 0:
                    return None
                state.changed.wait(left)

    def _count_in(self, step: int, block: int) -> None:
        """A record is there; a step that has all of them is passed on."""
        blocks = self._present.setdefault(step, set())
        blocks.add(block)
        if len(blocks) < self.size.blocks or self._behind is None:
            return
        state, entry = self._state, self._entry
        with state.changed:
            if entry.is_gone:
                return
            del entry.reserved[step]
            key = entry.step_key(step)
            state.host.publish(key)
            pin = state.host.pin(key)
            assert pin is not None
            entry.unwritten[step] = pin
            self._behind.write_step(entry, step)

    def _check(self, step: int, block: int) -> None:
        self._check_open()
        if not self.size.has(step, block):
            self.abort()
            raise CacheError(
                f"step {step}, block {block} of a template of {self.size.steps} x {self.size.blocks} records"
            )
        if self._behind is not None and len(self._present.get(step, ())) == self.size.blocks:
            self.abort()
            raise CacheError(f"step {step} is complete: record {block} of it cannot be replaced")

    def _check_open(self) -> None:
        if not self._is_open:
            raise CacheError("the writer was committed or aborted before")
        if self._state.is_closed:
            raise CacheError("the store was closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()
