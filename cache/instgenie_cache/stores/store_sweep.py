"""Going over all that the tiers of a store hold."""

from __future__ import annotations

import logging
from collections.abc import Callable

from instgenie_cache.errors import CacheError, RecordFormatError
from instgenie_cache.records.slab import Slab
from instgenie_cache.stores.silence import Silence
from instgenie_cache.stores.store_state import StoreState
from instgenie_cache.stores.template_entry import TemplateEntry
from instgenie_cache.tiers.tier import ColdTier

log = logging.getLogger(__name__)


class StoreSweep:
    """One sweep. Calls block, and end early once they should."""

    def __init__(
        self,
        state: StoreState,
        is_broken: Callable[[TemplateEntry, ColdTier, int, int], bool],
        silence: Silence,
        should_stop: Callable[[], bool],
    ) -> None:
        """Args:
        is_broken: as `StepLoader` calls it; False where the copy was dropped before.
        silence: of the shared tiers.
        """
        self._state, self._is_broken, self._silence = state, is_broken, silence
        self._is_told_to_stop = should_stop

    def _should_stop(self) -> bool:
        return self._state.is_closed or self._is_told_to_stop()

    def verify(self, namespace: str | None) -> tuple[int, int]:
        """Read every record in the nearest tier, and drop templates with broken ones: how many of each."""
        tier, state = self._state.nearest, self._state
        records = dropped = 0
        if tier is None:
            return records, dropped
        with state.changed:
            entries = [(one, one.losses[tier.name]) for one in state.seen(namespace) if tier in one.tiers]
        for entry, losses in entries:
            slab = Slab.private(entry.size.step_bytes)
            for step in range(entry.size.steps):
                if self._should_stop():
                    return records, dropped
                try:
                    broken = None if tier.read_step(entry.template, entry.size, step, slab) else "it lacks a record"
                except RecordFormatError as error:
                    broken = str(error)
                except CacheError as error:  # which says nothing of the record
                    state.observer.failed(tier.name)
                    log.warning("step %d of template %s cannot be verified: %s", step, entry.template, error)
                    continue
                records += entry.size.blocks
                if broken is None:
                    continue
                if self._is_broken(entry, tier, step, losses):
                    log.warning("step %d of template %s in the %s tier: %s", step, entry.template, tier.name, broken)
                    state.observer.corrupt(tier.name)
                    dropped += 1
                break
        return records, dropped

    def drop_leftovers(self) -> None:
        """Drop what belongs to no template, in all tiers.

        Raises:
            CacheError: the nearest tier failed.
        """
        if self._state.nearest is not None:
            self._state.nearest.sweep(self._should_stop)
        for tier in self._state.shared:
            if self._should_stop() or self._silence.lasts:
                return
            try:
                tier.sweep(self._should_stop)
            except CacheError as error:
                self._state.observer.failed(tier.name)
                log.warning("the %s tier is not swept: %s", tier.name, error)
