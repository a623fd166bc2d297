"""The interface that every holder of records offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from instgenie_cache.keys import RecordKey
from instgenie_cache.record import Record


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What a store holds (templates, bytes) and what it has answered since it was made (hits, misses, evictions)."""

    templates: int
    used_bytes: int
    budget_bytes: int
    hits: int
    misses: int
    evicted_templates: int


class RecordStore(Protocol):
    """Holds the records of templates. A template is visible to readers only once it is committed.

    Implementations are safe to call from several threads.
    """

    def put(self, key: RecordKey, record: Record) -> None:
        """Add one record of a template that is being written.

        Raises:
            StoreFullError: it does not fit; what was put of this template so far is dropped.
        """
        ...

    def commit(self, template: str) -> None:
        """Make the template's records visible, all at once."""
        ...

    def get(self, key: RecordKey) -> Record | None:
        """The record, or None where the template is unknown or not committed."""
        ...

    def holds(self, template: str) -> bool:
        """Whether the template is committed here."""
        ...

    def delete(self, template: str) -> None:
        """Drop the template, committed or not; an unknown one is no error."""
        ...

    def stats(self) -> StoreStats:
        """Counts at this moment."""
        ...
