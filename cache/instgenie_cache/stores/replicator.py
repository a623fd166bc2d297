"""Copies of templates between the nearest tier and the ones that other machines share."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from instgenie_cache.errors import CacheError
from instgenie_cache.stores.step_loader import StepLoader, StepView
from instgenie_cache.stores.store_state import StoreState
from instgenie_cache.stores.template_entry import TemplateEntry
from instgenie_cache.stores.write_behind import WriteBehind
from instgenie_cache.tiers.tier import ColdTier

log = logging.getLogger(__name__)

_MAX_COPIES = 1000  # that wait; what does not get in is copied when it is used again
_RETRY_SECONDS = 30.0  # between attempts at deletions that failed
_ROOM_SECONDS = 10.0  # that a copy waits for memory, while steps are being written


class Replicator:
    """One thread that copies and deletes whole templates, one after the other.

    A copy that fails is given up, and logged; the template's next use tries again. A deletion is tried until it is
    done or the store is closed, and a template that is to be deleted is looked up in no shared tier meanwhile.
    """

    def __init__(self, state: StoreState, loader: StepLoader, behind: WriteBehind | None) -> None:
        self._state, self._loader, self._behind = state, loader, behind
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="cache-replicator", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    # Under the lock

    def copy(self, entry: TemplateEntry) -> None:
        """Have the template in every tier, some time: those that lack it get it from one that has it."""
        lacking = (self._state.nearest, *self._state.shared)
        if entry.is_being_copied or all(tier is None or tier in entry.tiers for tier in lacking):
            return
        if self._queue.qsize() < _MAX_COPIES:
            entry.is_being_copied = True
            self._queue.put(lambda: self._copy(entry))

    def delete(self, template: str) -> None:
        """Drop a template from the shared tiers."""
        if template not in self._state.deleting:
            self._state.deleting.add(template)
            self._queue.put(lambda: self._delete(template))

    def delete_broken(self, entry: TemplateEntry, tier: ColdTier) -> None:
        """Drop a template from a shared tier, unless somebody wrote it anew there."""
        self._queue.put(lambda: self._delete_broken(entry, tier))

    # Without it

    def close(self) -> None:
        """Do what waits, then end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_ending = False
        retry_at = time.monotonic() + _RETRY_SECONDS
        while not is_ending:
            work: Callable[[], None] | None = self._delete_again
            if time.monotonic() < retry_at:
                with suppress(queue.Empty):
                    work = self._queue.get(timeout=_RETRY_SECONDS)
            if work == self._delete_again:
                retry_at = time.monotonic() + _RETRY_SECONDS
            if work is None:
                is_ending, work = True, self._delete_again
            try:
                work()
            except CacheError as error:
                log.warning("a template is not copied between tiers, or deleted: %s", error)
            except Exception:  # a fault of ours must not end the thread
                log.exception("a template cannot be copied between tiers, or deleted")

    def _copy(self, entry: TemplateEntry) -> None:
        try:
            for tier in self._state.shared:
                if tier not in entry.tiers:
                    self._spread(entry, tier)
            if self._state.nearest is not None and self._state.nearest not in entry.tiers:
                self._fetch(entry)
        finally:
            with self._state.changed:
                entry.is_being_copied = False

    def _spread(self, entry: TemplateEntry, tier: ColdTier) -> None:
        if entry.template in self._state.deleting:  # it is of before
            self._delete(entry.template)
        for step in range(entry.size.steps):
            view = None if entry.is_gone else self._loader.load(entry, step)
            if view is None:
                return
            try:
                tier.write_steps(entry.template, entry.size, [(step, view.slab)])
            finally:
                self._loader.close_view(view)
        tier.commit(entry.manifest)
        with self._state.changed:
            if not entry.is_gone:
                self._state.has_in(entry, tier)

    def _fetch(self, entry: TemplateEntry) -> None:
        """Give the nearest tier a template, by the thread that writes to it."""
        behind = self._behind
        assert behind is not None
        with self._state.changed:
            if entry.is_gone or not entry.tiers or entry.unwritten or entry.written:
                return  # it is on its way there by itself
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

    def _delete(self, template: str) -> None:
        for tier in self._state.shared:
            tier.delete(template)
        with self._state.changed:
            self._state.deleting.discard(template)

    def _delete_again(self) -> None:
        with self._state.changed:
            waiting = tuple(self._state.deleting)
        for template in waiting:
            try:
                self._delete(template)
            except CacheError as error:
                log.warning("template %s cannot be deleted from the shared tiers: %s", template, error)

    def _delete_broken(self, entry: TemplateEntry, tier: ColdTier) -> None:
        manifest = tier.manifest(entry.template)
        if manifest == entry.manifest:
            tier.delete(entry.template)
