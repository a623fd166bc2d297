"""The interfaces that every holder of records offers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from instgenie_cache.records.record import Record
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.tiers.tier import TierName


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What a store holds (templates, bytes) and what it has answered since it was made.

    `used_bytes` counts committed templates and those still being written. Hits and misses count leases.
    """

    templates: int
    used_bytes: int
    budget_bytes: int
    hits: int
    misses: int
    evicted_templates: int


class TemplateWriter(Protocol):
    """Writes one template. Where there are several writers of one at a time, none sees the others' records.

    As a context manager it aborts what was not committed.
    """

    def put(self, step: int, block: int, record: Record) -> None:
        """Add a record, or replace one that this writer put while its step is not complete.

        Raises:
            StoreFullError: it does not fit; the writer is aborted.
            CacheError: it is none of the announced records, or of another length; the writer is aborted.
        """
        ...

    def commit(self, cost_ms: float = 0.0, *, steps: int | None = None, note: bytes = b"") -> None:
        """Make the records visible, all at once. Where another writer was first, its template stays.

        Args:
            cost_ms: what it took to compute them; eviction weighs it.
            steps: that the template has in the end, 1 at least: the first ones of those that were announced, nothing
                having been put of the others, whose room is given back. None is all.
            note: for those who read the template, `MAX_NOTE_BYTES` at most.

        Raises:
            IncompleteTemplateError: records of the template's steps are not there; the writer is aborted.
            CacheError: the note is too long, or records of other steps were put; the writer is aborted.
        """
        ...

    def abort(self) -> None:
        """Drop what was put. After a commit, or a second time, it does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class TemplateLease(Protocol):
    """The right to read a template: it is not evicted until the lease is released.

    As a context manager it releases itself. Payloads are valid until then, or until the lease has read so many other
    steps that this one had to make room: the last two that were read are always valid.

    One thread may read while others ask `is_valid` or release it: the reader then gets a `CacheError`, or payloads that
    are as valid as any.
    """

    @property
    def tier(self) -> TierName:
        """Where the template was when the lease was taken: the coldest tier that one of its steps has to come from."""
        ...

    @property
    def note(self) -> bytes:
        """What the template's writer left for its readers."""
        ...

    @property
    def is_valid(self) -> bool:
        """False where the lease was lost, as with the connection to a service, or released.

        Payloads that were read before may have been overwritten since the lease was lost, so whoever used them asks
        afterwards.
        """
        ...

    def prefetch(self, steps: Iterable[int]) -> None:
        """Say which steps will be read soon, so that they are brought near meanwhile. Does not wait, never fails."""
        ...

    def step(self, step: int) -> Sequence[Record] | None:
        """The records of a step in block order, or None where one of them is lost.

        Raises:
            CacheError: the store cannot be read.
        """
        ...

    def blocks(self, step: int, first: int, stop: int) -> Sequence[Record] | None:
        """The records of blocks first..stop-1 of a step in block order, or None where one of them is lost.

        Where the step is in memory this is as `step`. Where it is not, no more than these records are read, from the
        nearest tier that has them, into memory of their own, which stays valid for as long as somebody has it; the step
        is not brought into memory for it. A step that is being brought there just now is waited for.

        Raises:
            CacheError: the store cannot be read.
        """
        ...

    def tiers(self) -> Sequence[TierName]:
        """Where each step of the template is now, in step order: in memory, or in the tier that it would be read from.

        Asking is no use of it, and does not say that a step is not lost.

        Raises:
            CacheError: the store cannot be asked.
        """
        ...

    def release(self) -> None:
        """Give the template free. A second time it does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class RecordStore(Protocol):
    """Holds the records of templates. A template is visible to readers only once it is committed, and then whole.

    Implementations are safe to call from several threads, and raise nothing but `CacheError`, their writers and leases
    neither.
    """

    def create(self, template: str, size: TemplateSize) -> TemplateWriter:
        """Begin to write a template.

        Raises:
            StoreFullError: it would not fit even if everything evictable were evicted; nothing is evicted then.
            BeingWrittenError: it has a writer, and this store takes one at a time.
        """
        ...

    def lease(self, template: str) -> TemplateLease | None:
        """Open a template for reading, or None where it is unknown or not committed."""
        ...

    def holds(self, template: str) -> bool:
        """Whether the template is committed here. Asking is no use of it."""
        ...

    def num_bytes(self, template: str) -> int | None:
        """Bytes of a template's payload, or None where it is unknown or not committed. Asking is no use of it."""
        ...

    def prefetch(self, template: str) -> None:
        """Bring a template into memory in the background, as far as there is room for it. Does not wait, never fails;
        an unknown one is no error."""
        ...

    def delete(self, template: str) -> None:
        """Drop a template. What writers have open of it will not become visible. An unknown one is no error.

        Those who hold a lease keep the steps that they have read; others are lost where they are in no memory.
        """
        ...

    def pin(self, template: str) -> bool:
        """Keep a template from being evicted, under lease or not; False where it is unknown.

        A pin ends with `unpin`, with the template's deletion or when the store is closed. Pinning twice is pinning
        once.
        """
        ...

    def unpin(self, template: str) -> None:
        """Let a template be evicted again. One that is not pinned is no error."""
        ...

    def flush(self) -> None:
        """Wait until what was committed is as durable as the store makes it."""
        ...

    def close(self) -> None:
        """Flush, then let go of everything; what is leased must not be used any more. A second time does nothing."""
        ...

    def stats(self) -> StoreStats:
        """Counts at this moment."""
        ...
