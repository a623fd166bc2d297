"""The interfaces that every holder of records offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from instgenie_cache.record import Record


@dataclass(frozen=True, slots=True)
class TemplateSize:
    """What a writer announces before its first record: `steps` x `blocks` records, `num_bytes` of payload in all."""

    steps: int
    blocks: int
    num_bytes: int

    @property
    def records(self) -> int:
        """How many records the template has."""
        return self.steps * self.blocks


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
    """Writes one template. Two writers of the same template do not see each other: the first commit counts.

    As a context manager it aborts what was not committed.
    """

    def put(self, step: int, block: int, record: Record) -> None:
        """Add a record, or replace one that this writer put.

        Raises:
            StoreFullError: it does not fit, or is more than was announced; the writer is aborted.
        """
        ...

    def commit(self) -> None:
        """Make the records visible, all at once. Where another writer was first, its template stays.

        Raises:
            IncompleteTemplateError: records that were announced are not there; the writer is aborted.
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

    As a context manager it releases itself. Payloads are valid until then.
    """

    def step(self, step: int) -> Sequence[Record] | None:
        """The records of a step in block order, or None where one of them is lost.

        Raises:
            CacheError: the store cannot be read.
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

    def delete(self, template: str) -> None:
        """Drop a template; those who hold a lease read on. What writers have open of it will not become visible.

        An unknown one is no error.
        """
        ...

    def stats(self) -> StoreStats:
        """Counts at this moment."""
        ...
