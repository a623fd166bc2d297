"""What the service asks of the store that it serves: `TieredStore` offers it.

Calls that are said to block go to a thread, all others are made on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from instgenie_cache.records.slab import Slab
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.stores.store import StoreStats
from instgenie_cache.tiers.arena import Arena
from instgenie_cache.tiers.pages import Extent
from instgenie_cache.tiers.tier import TierName


class ServedStep(Protocol):
    """A step in memory."""

    @property
    def slab(self) -> Slab:
        """Its records, as `TemplateSize` lays them out."""
        ...

    @property
    def extents(self) -> tuple[Extent, ...] | None:
        """Where it is in the arena; None where it is in memory of its own."""
        ...


class ServedWriter(Protocol):
    """A template that is being written. For one thread at a time."""

    @property
    def is_wanted(self) -> bool:
        """Whether anything becomes of what is put: not where the template is there, or was deleted, meanwhile."""
        ...

    def slot(self, step: int, block: int) -> list[memoryview] | None:
        """Memory for a record's bytes, header included; None where there is no room just now, or it is not wanted.

        Raises:
            CacheError: there is no such record, or no room ever; the writer is aborted.
        """
        ...

    def filled(self, step: int, block: int) -> None:
        """Count a record in whose bytes are in its slot. Takes the time of a checksum.

        Raises:
            RecordFormatError: they are no such record; the writer is aborted.
        """
        ...

    def commit(self, cost_ms: float = 0.0, *, steps: int | None = None, note: bytes = b"") -> None:
        """See `TemplateWriter`."""
        ...

    def wait_durable(self) -> None:
        """After the commit: wait until the template is on disk, or is not to be any more. Blocks.

        Raises:
            CacheError: it could not be made durable.
        """
        ...

    @property
    def is_durable(self) -> bool:
        """Whether `wait_durable` has nothing to wait for or to tell: it is on disk, or was deleted or evicted."""
        ...

    def abort(self) -> None:
        """See `TemplateWriter`. Slots must not be written to any more."""
        ...


class ServedLease(Protocol):
    """A template that is being read. For any thread."""

    @property
    def size(self) -> TemplateSize:
        """Of the template."""
        ...

    @property
    def note(self) -> bytes:
        """See `TemplateLease`."""
        ...

    @property
    def tier(self) -> TierName:
        """See `TemplateLease`."""
        ...

    def resident(self, step: int) -> ServedStep | None:
        """A step if it is in memory, where it stays until `drop` or `release`."""
        ...

    def load(self, step: int) -> ServedStep | None:
        """As `resident`, but brought into memory if need be; None where it is lost. Blocks.

        Raises:
            CacheError: it cannot be read, or the lease was released.
        """
        ...

    def load_blocks(self, step: int, blocks: range) -> Slab | None:
        """Records of adjacent blocks of a step that is not in memory, in memory of their own, a stride apart; None
        where one of them is lost. The step is not brought into memory. Blocks.

        Raises:
            CacheError: they cannot be read, or the lease was released.
        """
        ...

    def tiers(self) -> Sequence[TierName]:
        """See `TemplateLease`."""
        ...

    def drop(self, step: int) -> None:
        """Let a step go."""
        ...

    def release(self) -> None:
        """See `TemplateLease`."""
        ...


class ServedStore(Protocol):
    """Templates in tiers."""

    @property
    def arena(self) -> Arena:
        """Memory of the steps, which clients of this machine may map."""
        ...

    def lookup_blocks(self, template: str) -> bool:
        """Whether `lease`, `num_bytes` and `pin` ask a tier that may be far away, and so block, if they look it up."""
        ...

    def create(self, template: str, size: TemplateSize) -> ServedWriter:
        """See `RecordStore`."""
        ...

    def lease(self, template: str, *, look_up: bool = True) -> ServedLease | None:
        """See `RecordStore`.

        Args:
            look_up: in tiers that may be far away, too, if need be.
        """
        ...

    def num_bytes(self, template: str, *, look_up: bool = True) -> int | None:
        """See `RecordStore`; `look_up` as in `lease`."""
        ...

    def prefetch(self, template: str, steps: Sequence[int] | None) -> None:
        """Load steps in the background; None is all of them."""
        ...

    def delete(self, template: str) -> None:
        """See `RecordStore`."""
        ...

    def pin(self, template: str, *, look_up: bool = True) -> bool:
        """See `RecordStore`; `look_up` as in `lease`."""
        ...

    def unpin(self, template: str) -> None:
        """See `RecordStore`."""
        ...

    def templates(self, namespace: str | None, after: str, limit: int) -> list[tuple[str, int]]:
        """Names, in order, and payload bytes of committed templates whose names come after one."""
        ...

    def stats(self, namespace: str | None = None) -> StoreStats:
        """See `RecordStore`; of one namespace, or of all."""
        ...

    def sweep(self, namespace: str | None, should_stop: Callable[[], bool]) -> tuple[int, int]:
        """Verify what is on disk: how many records, and how many templates were dropped as broken. Blocks.

        Args:
            should_stop: asked now and then; once it says so, the rest is left out.
        """
        ...

    def flush(self) -> None:
        """See `RecordStore`. Blocks."""
        ...

    def sync(self) -> None:
        """Bring what was written to the disk, where the tier's policy leaves that to its owner. Blocks."""
        ...

    def close(self) -> None:
        """See `RecordStore`. Blocks."""
        ...
