"""Bringing steps into memory, once for all who want them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from instgenie_cache.errors import CacheError, RecordFormatError
from instgenie_cache.records.slab import Slab
from instgenie_cache.stores.silence import Silence
from instgenie_cache.stores.store_state import StoreState
from instgenie_cache.stores.template_entry import TemplateEntry
from instgenie_cache.tiers.host_tier import Pin, StepKey
from instgenie_cache.tiers.pages import Extent
from instgenie_cache.tiers.tier import ColdTier, TierName

log = logging.getLogger(__name__)

_WORKERS = 4
# Steps for which the arena has no room take a quarter of its size more, at most, but four of them always may.
_PRIVATE_SHARE = 4
_PRIVATE_STEPS = 4
_MAX_QUEUED = 256  # steps to prefetch; more are not worth knowing of


@dataclass(slots=True, eq=False)
class StepView:
    """A step in memory.

    Attributes:
        pin: keeps it in the arena; None where it is in private memory, because the arena had no room.
    """

    slab: Slab
    pin: Pin | None

    @property
    def extents(self) -> tuple[Extent, ...] | None:
        """Where in the arena it is."""
        return None if self.pin is None else self.pin.extents


class StepLoader:
    """Loads steps, or some blocks of them, from the tiers below the host. A step that several want is loaded once."""

    def __init__(
        self, state: StoreState, on_broken: Callable[[TemplateEntry, ColdTier, int, int], object], silence: Silence
    ) -> None:
        """Args:
        on_broken: called with a template, a tier, a step that lacks a record or has a corrupt one there, and the
            tier's `losses` from before it was read.
        silence: of the shared tiers.
        """
        self._state, self._on_broken, self._silence = state, on_broken, silence
        self._loading: dict[StepKey, Future[bool]] = {}
        self._prefetching: set[StepKey] = set()  # steps that wait for a thread of the pool, and were not loaded since
        self._private_bytes = 0  # of views outside the arena
        self._private_limit_bytes = state.host.total_bytes // _PRIVATE_SHARE
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="cache-loader")  # its threads start when needed

    def load(self, entry: TemplateEntry, step: int, *, into_arena_only: bool = False) -> StepView | None:
        """The step, loaded if need be; None where it is lost.

        Args:
            into_arena_only: None, too, where the arena has no room.

        Raises:
            CacheError: a tier cannot be read, or there is no memory.
        """
        state, key = self._state, entry.step_key(step)
        while True:
            with state.changed:
                self._prefetching.discard(key)  # that would come late
                pin = state.resident(entry, step)
                if pin is not None:
                    return StepView(pin.slab, pin)
                # One that is gone may have been written anew: the tiers below would give its successor's bytes.
                sources = [] if entry.is_gone else self._sources(entry, step)
                if not sources:
                    return None
                waiting = self._loading.get(key)
                if waiting is None:
                    reservation = state.reserve(entry, step)
                    if reservation is None and into_arena_only:
                        return None
                    slab = self._private(entry.size.step_bytes) if reservation is None else reservation.slab
                    mine = self._loading[key] = Future()
                    break
            if not waiting.result():
                return None
        found, error = False, None
        try:
            found = self._read(entry, step, slab, sources)
        except CacheError as failure:
            error = failure
        finally:
            view = None
            with state.changed:
                del self._loading[key]
                found = found and not entry.is_gone  # else what was read may be its successor's, as above
                if reservation is None and found:
                    view = StepView(slab, None)
                elif reservation is None:
                    self._private_bytes -= slab.num_bytes
                elif found:
                    state.host.publish(key)
                    pin = state.host.pin(key)
                    assert pin is not None
                    view = StepView(slab, pin)
                else:
                    state.host.cancel(key)
                if error is None:
                    mine.set_result(found)
                else:
                    mine.set_exception(error)
                state.changed.notify_all()
        if error is not None:
            raise error
        return view

    def load_blocks(self, entry: TemplateEntry, step: int, blocks: range) -> Slab | None:
        """Records of some blocks in memory of their own, a stride apart; None where one of them is lost.

        Nothing else is read, unless the step is being loaded already: that is waited for, and not competed with.

        Raises:
            CacheError: a tier cannot be read, or there is no memory.
        """
        state, size, key = self._state, entry.size, entry.step_key(step)
        slab = _own_memory(size.offset(len(blocks)), f"{len(blocks)} blocks")
        while True:
            with state.changed:
                pin = state.resident(entry, step)
                sources = [] if entry.is_gone else self._sources(entry, step)  # as in `load`
                loading = self._loading.get(key)
            if pin is not None:
                slab.write(0, pin.slab.read(size.offset(blocks.start), slab.num_bytes))
                self.close_view(StepView(pin.slab, pin))
                return slab
            if not sources:
                return None
            if loading is None:
                break
            if not loading.result():
                return None
        is_read = self._read(entry, step, slab, sources, blocks)
        with state.changed:
            return slab if is_read and not entry.is_gone else None

    def tier(self, entry: TemplateEntry, step: int) -> TierName:
        """Where a step is, or would be read from; one that is lost, where it would be written. Under the lock."""
        state = self._state
        if entry.step_key(step) in state.host:
            return "host"
        for tier in (*(tier for tier, _ in self._sources(entry, step)), state.nearest):
            if tier is not None:
                return tier.name
        return "host"

    def close_view(self, view: StepView) -> None:
        """Let a step go."""
        with self._state.changed:
            if view.pin is not None:
                view.pin.release()
            else:
                self._private_bytes -= view.slab.num_bytes
            self._state.changed.notify_all()

    def prefetch(self, entry: TemplateEntry, steps: Sequence[int]) -> None:
        """Load steps in the background, those that are not there yet. Under the lock."""
        for step in steps:
            key = entry.step_key(step)
            if not 0 <= step < entry.size.steps or key in self._prefetching or key in self._loading:
                continue
            if key in self._state.host or len(self._prefetching) >= _MAX_QUEUED or self._state.is_closed:
                continue
            self._prefetching.add(key)
            self._pool.submit(self._prefetch, entry, step)

    def bring(self, entry: TemplateEntry, step: int) -> bool:
        """Load a step, and wait for it; False where the arena has no room or the step is lost.

        Raises:
            CacheError: as `load`.
        """
        view = self.load(entry, step, into_arena_only=True)
        if view is not None:
            self.close_view(view)
        return view is not None

    def close(self) -> None:
        """Let running loads come to their end, and forget what waits."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _private(self, num_bytes: int) -> Slab:
        """Memory outside the arena, which has no room."""
        limit = max(self._private_limit_bytes, _PRIVATE_STEPS * num_bytes)
        if self._private_bytes + num_bytes > limit:
            raise CacheError(
                f"no memory for a step of {num_bytes} bytes: the {self._state.host.total_bytes} of the host tier are "
                f"in use, and {self._private_bytes} beyond them"
            )
        slab = _own_memory(num_bytes, "a step")
        self._private_bytes += num_bytes
        return slab

    def _prefetch(self, entry: TemplateEntry, step: int) -> None:
        with self._state.changed:
            if entry.step_key(step) not in self._prefetching:  # whoever wanted it has loaded it himself
                return
        try:
            self.bring(entry, step)
        except CacheError as error:
            log.warning("step %d of template %s cannot be prefetched: %s", step, entry.template, error)

    def _sources(self, entry: TemplateEntry, step: int) -> list[tuple[ColdTier, int]]:
        """Tiers that have the step, and how often each has lost its copy. Under the lock."""
        if not 0 <= step < entry.size.steps:
            return []
        nearest = self._state.nearest
        half = [nearest] if nearest is not None and step in entry.written and nearest not in entry.tiers else []
        return [(tier, entry.losses[tier.name]) for tier in (*half, *entry.tiers)]

    def _read(
        self,
        entry: TemplateEntry,
        step: int,
        slab: Slab,
        sources: Sequence[tuple[ColdTier, int]],
        blocks: range | None = None,
    ) -> bool:
        """Fill the slab from the first tier that can."""
        observer = self._state.observer
        failure = None
        for tier, losses in sources:
            started = time.perf_counter()
            try:
                if self._read_from(tier, entry, step, slab, blocks):
                    observer.loaded(tier.name, slab.num_bytes, time.perf_counter() - started)
                    return True
                log.warning("step %d of template %s lacks a record in the %s tier", step, entry.template, tier.name)
            except RecordFormatError as error:
                log.warning("step %d of template %s in the %s tier: %s", step, entry.template, tier.name, error)
                if not entry.is_gone:
                    observer.corrupt(tier.name)
            except CacheError as error:
                observer.failed(tier.name)
                failure = error
                continue
            self._on_broken(entry, tier, step, losses)
        if failure is not None:
            raise failure
        return False

    def _read_from(self, tier: ColdTier, entry: TemplateEntry, step: int, slab: Slab, blocks: range | None) -> bool:
        """See `ColdTier.read_step`; a shared tier that did not answer a little while ago is not asked."""
        if not tier.is_shared:
            return tier.read_step(entry.template, entry.size, step, slab, blocks)
        if self._silence.lasts:
            raise CacheError(f"the {tier.name} tier did not answer a little while ago")
        with self._silence.watch():
            return tier.read_step(entry.template, entry.size, step, slab, blocks, entry.manifest.writing)


def _own_memory(num_bytes: int, what: str) -> Slab:
    try:
        return Slab.private(num_bytes)
    except MemoryError as error:
        raise CacheError(f"no memory for {what} of {num_bytes} bytes") from error
