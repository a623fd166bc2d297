"""The interface of the tiers below memory: LMDB and the object store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol

from instgenie_cache.records.manifest import Manifest
from instgenie_cache.records.slab import Slab
from instgenie_cache.records.template_size import TemplateSize

TierName = Literal["host", "disk", "object"]


class ColdTier(Protocol):
    """Keeps templates beyond this process. All calls block; they come from several threads.

    A template's steps are written first, in any order, then its manifest: one without is not there for readers. Nothing
    but `CacheError` is raised.
    """

    @property
    def name(self) -> TierName:
        """What metrics and timings call it."""
        ...

    @property
    def is_shared(self) -> bool:
        """Whether others write to it too: then templates that nobody here knows may be there."""
        ...

    @property
    def budget_bytes(self) -> int | None:
        """Most bytes that it is to hold, None for no bound. The owner keeps to it, by deleting templates."""
        ...

    @property
    def used_bytes(self) -> int:
        """What it holds of the budget, half-written templates included; 0 where there is no budget."""
        ...

    @property
    def fault(self) -> str | None:
        """Why nothing that it holds outlives the next start, and nothing new is taken; None where all is well."""
        ...

    def footprint_bytes(self, size: TemplateSize, note_bytes: int = 0) -> int:
        """What a template of that size, with a note of so many bytes, takes of the budget."""
        ...

    def manifests(self) -> Iterable[Manifest]:
        """Every committed template, of all namespaces."""
        ...

    def manifest(self, template: str) -> Manifest | None:
        """One template, None where it is not committed here."""
        ...

    def write_steps(
        self, template: str, size: TemplateSize, steps: Sequence[tuple[int, Slab]], writing: str = ""
    ) -> None:
        """Write the records of some steps, which lie in the slabs as `TemplateSize` says.

        Args:
            writing: of a template; see `Manifest`. Others write to a shared tier, too: it keeps their steps apart.

        The template may be committed with fewer steps than `size` says, as long as it has those that were written.

        Where this fails, what was written of the template before is dropped.

        Raises:
            StoreFullError: no room, or the disk is full; committed templates stay readable.
        """
        ...

    def commit(self, manifest: Manifest) -> None:
        """Make the template visible. What was written of it before is durable once this returns, as far as the tier's
        sync policy goes.

        Raises:
            StoreFullError: no room.
        """
        ...

    def read_step(
        self,
        template: str,
        size: TemplateSize,
        step: int,
        slab: Slab,
        blocks: range | None = None,
        writing: str = "",
    ) -> bool:
        """Fill the slab with the records of a step, each of them verified. False where one of them is lost.

        Args:
            blocks: adjacent ones, one at least: they alone are read, to the slab's beginning, a stride apart. None is
                all of them.
            writing: whose step it is, as in `write_steps`.

        Raises:
            RecordFormatError: one is corrupt, or a record of something else.
            CacheError: the tier cannot be read.
        """
        ...

    def delete(self, template: str) -> None:
        """Drop a template, manifest first. An unknown one is no error."""
        ...

    def sweep(self, should_stop: Callable[[], bool] = lambda: False) -> int:
        """Drop the records that belong to no manifest and to nothing that is being written; how many.

        Args:
            should_stop: asked now and then; once it says so, the rest is left out.
        """
        ...

    def close(self) -> None:
        """Let go of the tier. A second time it does nothing."""
        ...
