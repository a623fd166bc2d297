"""Copies of templates between the nearest tier and the ones that other machines share."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from instgenie_cache.errors import CacheError, RecordFormatError
from instgenie_cache.records.manifest import Manifest
from instgenie_cache.records.slab import Slab
from instgenie_cache.stores.silence import Silence
from instgenie_cache.stores.step_loader import StepLoader, StepView
from instgenie_cache.stores.store_state import StoreState
from instgenie_cache.stores.template_entry import TemplateEntry
from instgenie_cache.stores.waiting_deletions import WaitingDeletions
from instgenie_cache.stores.write_behind import WriteBehind
from instgenie_cache.tiers.tier import ColdTier

log = logging.getLogger(__name__)

_MAX_COPIES = 1000  # that wait; what does not get in is copied when it is used again
_ROOM_SECONDS = 10.0  # that a copy waits for memory, while steps are being written


@dataclass(frozen=True, slots=True)
class ReplicatorTimes:
    """How patient a replicator is.

    Attributes:
        retry_seconds: between attempts at a deletion that failed, and at copying a template.
        slow_seconds: after which a lookup, a read or a deletion that fails says that the tier does not answer: it is
            left alone for `retry_seconds` then. A silent object store takes 30 s for each attempt.
        end_seconds: after the close began, in which deletions that failed are tried again; from then on the first
            thing that fails is the last that is tried.
    """

    retry_seconds: float = 30.0
    slow_seconds: float = 1.0
    end_seconds: float = 5.0


class Replicator:
    """One thread that copies and deletes whole templates, one after the other.

    A copy that fails is given up, and logged; a use of the template some time later tries again. A deletion is tried
    until it is done or the store is closed, and a template that is to be deleted is looked up in no shared tier
    meanwhile. What comes new waits for one deletion that is tried again at most, and for none where the tier does not
    answer.
    """

    def __init__(
        self,
        state: StoreState,
        loader: StepLoader,
        behind: WriteBehind | None,
        times: ReplicatorTimes,
        silence: Silence,
    ) -> None:
        """Args:
        silence: of the shared tiers; lookups keep it, too.
        """
        self._state, self._loader, self._behind = state, loader, behind
        self._times, self._silence = times, silence
        self._waiting = WaitingDeletions(times.retry_seconds, times.slow_seconds)
        self._end_at = math.inf
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="cache-replicator", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    # Under the lock

    def copy(self, entry: TemplateEntry) -> None:
        """Have the template in every tier, some time: those that lack it get it from one that has it."""
        tiers = (self._state.nearest, *self._state.shared)
        if entry.is_being_copied or not any(_lacks(tier, entry) for tier in tiers):
            return
        if self._queue.qsize() < _MAX_COPIES and time.monotonic() >= entry.not_copied_until:
            entry.is_being_copied = True
            self._queue.put(lambda: self._copy(entry))

    def delete(self, template: str) -> None:
        """Drop a template from the shared tiers."""
        if template not in self._state.deleting:
            self._state.deleting.add(template)
            self._queue.put(lambda: self._delete_first(template))

    def delete_broken(self, entry: TemplateEntry, tier: ColdTier, step: int) -> None:
        """Drop a template from a shared tier, unless somebody has mended the step there, or wrote it all anew."""
        self._queue.put(lambda: self._delete_broken(entry, tier, step))

    # Without it

    def close(self) -> None:
        """Do what waits, unless it fails for long, then end the thread."""
        self._end_at = time.monotonic() + self._times.end_seconds
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                work = self._queue.get(timeout=self._waiting.seconds_to_next(time.monotonic()))
            except queue.Empty:
                pass
            else:
                if work is None or (not self._do(work) and self._is_late()):
                    break
            template = None if self._is_late() else self._waiting.take_due(time.monotonic())
            if template is not None:
                self._do(partial(self._delete, template))
        self._delete_at_the_end()

    def _do(self, work: Callable[[], None]) -> bool:
        """Whether it succeeded."""
        try:
            work()
        except CacheError as error:
            log.warning("a template is not copied between tiers, or deleted: %s", error)
        except Exception:  # a fault of ours must not end the thread
            log.exception("a template cannot be copied between tiers, or deleted")
        else:
            return True
        return False

    def _is_late(self) -> bool:
        return time.monotonic() >= self._end_at

    def _copy(self, entry: TemplateEntry) -> None:
        try:
            for tier in self._state.shared:
                if _lacks(tier, entry) and not self._silence.lasts:
                    self._copy_to(tier, entry)
            if _lacks(self._state.nearest, entry) and not self._silence.lasts:
                self._fetch(entry)
        finally:
            with self._state.changed:
                entry.is_being_copied = False

    def _copy_to(self, tier: ColdTier, entry: TemplateEntry) -> None:
        try:
            is_there = self._spread(entry, tier)
        except CacheError:
            self._state.observer.failed(tier.name)
            entry.not_copied_until = time.monotonic() + self._times.retry_seconds
            raise
        if not is_there:
            entry.not_copied_until = time.monotonic() + self._times.retry_seconds

    def _spread(self, entry: TemplateEntry, tier: ColdTier) -> bool:
        """Give a shared tier a template, unless it has another writing of it; whether it has this one."""
        if entry.template in self._state.deleting:  # it is of before
            self._delete(entry.template)
        found = self._found(entry.template, tier)
        if found is None:
            return self._write(entry, tier)
        is_there = found == entry.manifest
        with self._state.changed:
            if is_there and not entry.is_gone:
                self._state.has_in(entry, tier)
        return is_there

    def _found(self, template: str, tier: ColdTier) -> Manifest | None:
        """What a shared tier has; what is broken there is dropped."""
        try:
            with self._silence.watch():
                return tier.manifest(template)
        except RecordFormatError as error:
            log.warning("template %s in the %s tier is written anew: %s", template, tier.name, error)
            tier.delete(template)
            return None

    def _write(self, entry: TemplateEntry, tier: ColdTier) -> bool:
        """Write a template to a shared tier; whether all of it was. Meanwhile it is not evicted."""
        with self._state.changed:
            if entry.is_gone:
                return False
            self._state.lease(entry)
        is_written = False
        try:
            for step in range(entry.size.steps):
                view = self._load(entry, step)
                if view is None:
                    return False
                try:
                    tier.write_steps(entry.template, entry.size, [(step, view.slab)], entry.manifest.writing)
                finally:
                    self._loader.close_view(view)
            tier.commit(entry.manifest)
            is_written = True
            return True
        finally:
            with self._state.changed:
                if is_written and not entry.is_gone:
                    self._state.has_in(entry, tier)
                self._state.release(entry)

    def _load(self, entry: TemplateEntry, step: int) -> StepView | None:
        """A step of a template that is still wanted."""
        return None if entry.is_gone else self._loader.load(entry, step)

    def _fetch(self, entry: TemplateEntry) -> None:
        """Give the nearest tier a template, by the thread that writes to it."""
        behind, nearest = self._behind, self._state.nearest
        assert behind is not None
        assert nearest is not None
        with self._state.changed:
            if entry.is_gone or not entry.tiers or entry.unwritten or entry.written:
                return  # it is on its way there by itself
            if nearest.budget_bytes is not None and self._state.footprint_bytes(entry) > nearest.budget_bytes:
                return
            entry.error = None
        try:
            for step in range(entry.size.steps):
                view = self._load_into_arena(entry, step)
                if view is None or view.pin is None:
                    break
                with self._state.changed:
                    if self._is_given_up(entry):
                        self._loader.close_view(view)
                        break
                    entry.unwritten[step] = view.pin
                    behind.write_step(entry, step)
        finally:
            with self._state.changed:
                behind.commit(entry)  # which gives up what lacks a step

    def _load_into_arena(self, entry: TemplateEntry, step: int) -> StepView | None:
        """A step; where the arena has no room, once steps that were loaded before are written."""
        until = time.monotonic() + _ROOM_SECONDS
        while True:
            view = self._loader.load(entry, step, into_arena_only=True)
            left = until - time.monotonic()
            if view is not None or left <= 0:
                return view
            with self._state.changed:
                if self._is_given_up(entry) or not entry.unwritten:
                    return None
                self._state.changed.wait(left)

    @staticmethod
    def _is_given_up(entry: TemplateEntry) -> bool:
        return entry.is_gone or entry.error is not None

    def _delete_first(self, template: str) -> None:
        now = time.monotonic()
        if self._waiting.is_paused(now) or self._silence.lasts:
            self._waiting.postpone(template, now)
        else:
            self._delete(template)

    def _delete(self, template: str) -> None:
        """Raises:
        CacheError: a tier failed; it is tried again.
        """
        began = time.monotonic()
        try:
            for tier in self._state.shared:
                with self._silence.watch():
                    tier.delete(template)
        except Exception:
            now = time.monotonic()
            self._waiting.failed(template, now - began, now)
            raise
        self._waiting.forget(template)
        with self._state.changed:
            self._state.deleting.discard(template)

    def _delete_at_the_end(self) -> None:
        """Try every deletion that waits once more, while the tiers answer and there is time."""
        for _ in range(len(self._waiting)):
            template = self._waiting.take()
            if template is None or self._is_late() or self._waiting.is_paused(time.monotonic()):
                break
            self._do(partial(self._delete, template))
        with self._state.changed:
            left = sorted(self._state.deleting)
        if left:
            log.warning("%d templates could not be deleted from the shared tiers, %s among them", len(left), left[0])

    def _delete_broken(self, entry: TemplateEntry, tier: ColdTier, step: int) -> None:
        slab = Slab.private(entry.size.step_bytes)
        try:
            if tier.manifest(entry.template) != entry.manifest:
                return
            if tier.read_step(entry.template, entry.size, step, slab, writing=entry.manifest.writing):
                return
        except RecordFormatError as error:
            log.warning("template %s is dropped from the %s tier: %s", entry.template, tier.name, error)
        tier.delete(entry.template)


def _lacks(tier: ColdTier | None, entry: TemplateEntry) -> bool:
    """Whether a tier could have a template, and has not."""
    return tier is not None and tier not in entry.tiers and tier.fault is None
