"""The thread that writes templates to the nearest tier below the host, behind their writers' backs."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from instgenie_cache.errors import CacheError, StoreFullError
from instgenie_cache.stores.store_state import StoreState
from instgenie_cache.stores.template_entry import TemplateEntry
from instgenie_cache.tiers.host_tier import Pin
from instgenie_cache.tiers.tier import ColdTier

log = logging.getLogger(__name__)

# Steps that are written at once, in bytes: what waits meanwhile goes together. Syncing less often is what makes small
# steps fast; transactions of 48 MB ran as fast as a plain file with an fsync each.
_BATCH_BYTES = 48 << 20


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """A step to write, or something else to do with the template."""

    entry: TemplateEntry
    step: int | None = None
    do: Callable[[TemplateEntry], None] | None = None


class WriteBehind:
    """Writes what it is given, in order. What waits to be written stays in the arena, which bounds how much that is."""

    def __init__(self, state: StoreState, tier: ColdTier, on_durable: Callable[[TemplateEntry], None]) -> None:
        """Args:
        on_durable: called in this thread, under the lock, once a template is in the tier.
        """
        self._state, self._tier, self._on_durable = state, tier, on_durable
        self._queue: deque[_Work] = deque()
        self._given = self._done = 0
        self._pending_deletions: set[str] = set()  # that failed; the tier still has them
        self._error: CacheError | None = None  # of a committed template, since the last flush
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="cache-writer", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    # Under the lock

    def write_step(self, entry: TemplateEntry, step: int) -> None:
        """Write a complete step, which is among `entry.unwritten`."""
        entry.was_written = True
        self._put(_Work(entry, step=step))

    def commit(self, entry: TemplateEntry) -> None:
        """Write the manifest, after the steps."""
        self._put(_Work(entry, do=self._commit))

    def drop(self, entry: TemplateEntry) -> None:
        """Let nobody find a template any more, and have deleted what was written of it, or is still to be.

        A second time it does nothing: the tier knows names alone, and by then the name may be another writer's.
        """
        if entry.is_gone:
            return
        is_stored = entry.was_written or self._state.is_near(entry)
        self._state.drop(entry)
        if is_stored:
            self._put(_Work(entry, do=self._delete))

    def lost(self, entry: TemplateEntry, tier: ColdTier) -> None:
        """A tier's copy, or what was written of one, is broken or gone: drop the template where no other tier has it.

        What the nearest tier has of it is deleted where that is what is broken, or nothing else is left of it.
        """
        self._state.lost_in(entry, tier)
        if tier is self._tier or (entry.is_gone and entry.was_written):
            self._put(_Work(entry, do=self._delete))

    # Without it

    def flush(self) -> None:
        """Wait until all that was given so far is written.

        Raises:
            CacheError: a template that was committed since the last flush is not in the tier, or the next start will
                lose templates, whenever they were committed.
        """
        with self._state.changed:
            until = self._given
            self._state.changed.wait_for(lambda: self._done >= until)
            error, self._error = self._error, None
            if error is None and self._tier.fault is not None:
                near = (entry for entry in self._state.entries.values() if self._tier in entry.tiers)
                error = next(filter(None, map(self._state.why_not_durable, near)), None)
        if error is not None:
            raise error

    def wait_durable(self, entry: TemplateEntry) -> None:
        """Wait until a committed template is in the tier.

        Raises:
            CacheError: it will not be, or not beyond the next start.
        """
        with self._state.changed:
            until = self._given
            self._state.changed.wait_for(lambda: self._done >= until)
            error = self._state.why_not_durable(entry)
        if error is not None:
            raise error

    def close(self) -> None:
        """Write what waits, then end the thread."""
        with self._state.changed:
            self._is_stopping = True
            self._state.changed.notify_all()
        self._thread.join()

    def _put(self, work: _Work) -> None:
        if self._is_stopping:
            return
        self._queue.append(work)
        self._given += 1
        self._state.changed.notify_all()

    # In the thread

    def _run(self) -> None:
        changed = self._state.changed
        while True:
            with changed:
                changed.wait_for(lambda: self._queue or self._is_stopping)
                works = self._take() if self._queue else []
            if not works:
                self._delete_pending()  # or they would be back at the next start
                return
            entry = works[0].entry
            try:
                if works[0].do is None:
                    self._write(entry, [work.step for work in works if work.step is not None])
                else:
                    works[0].do(entry)
            except CacheError as error:
                self._give_up(entry, error)
            except Exception as error:  # a fault of ours must not end the thread, or writers would wait for ever
                log.exception("template %s cannot be written", entry.template)
                self._give_up(entry, CacheError(f"{type(error).__name__}: {error}"))
            with changed:
                self._done += len(works)
                changed.notify_all()

    def _take(self) -> list[_Work]:
        """The next piece of work; steps of one template in a row are one."""
        works = [self._queue.popleft()]
        entry = works[0].entry
        most = _BATCH_BYTES // entry.size.step_bytes
        while works[0].step is not None and self._queue and len(works) < most:
            following = self._queue[0]
            if following.entry is not entry or following.step is None:
                break
            works.append(self._queue.popleft())
        return works

    def _write(self, entry: TemplateEntry, steps: Sequence[int]) -> None:
        with self._state.changed:
            # Those that are no longer there were dropped, or given up after a failure. Pins of our own: the entry's are
            # let go when it is dropped.
            pins = {step: self._pin(entry, step) for step in steps if step in entry.unwritten}
            size = entry.size  # a commit may change it meanwhile
        if not pins:
            return
        num_bytes = len(pins) * size.step_bytes
        try:
            self._delete_pending()
            if entry.template in self._pending_deletions:
                raise CacheError("what was there of it before cannot be deleted")
            self._make_room(len(pins) * (self._tier.footprint_bytes(size) // size.steps))
            started = time.perf_counter()
            self._tier.write_steps(entry.template, size, [(step, pin.slab) for step, pin in pins.items()])
            self._state.observer.written(self._tier.name, num_bytes, time.perf_counter() - started)
        finally:
            with self._state.changed:
                for pin in pins.values():
                    pin.release()
                self._state.changed.notify_all()
        with self._state.changed:
            if entry.is_gone:  # its deletion is in the queue
                return
            entry.written.update(pins)
            for step in pins:
                own = entry.unwritten.pop(step, None)
                if own is not None:
                    own.release()

    def _pin(self, entry: TemplateEntry, step: int) -> Pin:
        pin = self._state.host.pin(entry.step_key(step))
        assert pin is not None
        return pin

    def _commit(self, entry: TemplateEntry) -> None:
        state = self._state
        with state.changed:
            if entry.is_gone or self._tier in entry.tiers:
                return
            losses = entry.losses[self._tier.name]
            is_whole = len(entry.written) == entry.size.steps
            if not is_whole:  # given up after a failure; what was written since is of no use
                state.give_up_written(entry)
        if not is_whole:
            self._delete(entry)
            return
        if entry.note:
            self._make_room(state.footprint_bytes(entry) - self._tier.footprint_bytes(entry.size))
        self._tier.commit(entry.manifest)
        with state.changed:
            if entry.losses[self._tier.name] != losses:  # dropped, or found broken: its deletion is in the queue
                return
            state.has_in(entry, self._tier)
            self._on_durable(entry)

    def _delete(self, entry: TemplateEntry) -> None:
        self._delete_name(entry.template)

    def _delete_name(self, template: str) -> bool:
        """Whether it is gone from the tier; else it is tried again before the next write."""
        try:
            self._tier.delete(template)
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread goes on
            self._state.observer.failed(self._tier.name)
            log.warning("template %s cannot be deleted from the %s tier: %s", template, self._tier.name, error)
            self._pending_deletions.add(template)
            return False
        self._pending_deletions.discard(template)
        return True

    def _waiting_deletions(self) -> set[str]:
        """Templates whose deletion is in the queue. Nothing of their successors is written before it, so they can be
        deleted now; a second time, when it is their turn, there is nothing left."""
        with self._state.changed:
            return {work.entry.template for work in self._queue if work.do == self._delete and work.entry.is_gone}

    def _delete_pending(self) -> None:
        for template in tuple(self._pending_deletions):
            self._delete_name(template)

    def _make_room(self, num_bytes: int) -> None:
        """Do deletions that wait, then evict, one by one: where these fail, evicting more would only lose more."""
        state = self._state
        for template in self._waiting_deletions() if state.is_short_of(num_bytes) else ():
            self._delete_name(template)
        while True:
            with state.changed:
                victims = state.cold_victims(num_bytes)
                if not victims:
                    return
                if self._pending_deletions:
                    raise StoreFullError(
                        f"no room for {num_bytes} bytes: what was deleted, or evicted for others, is still there"
                    )
                victim = victims[0]
                state.evict_cold(victim)
            self._delete_name(victim.template)

    def _give_up(self, entry: TemplateEntry, error: CacheError) -> None:
        """Keep the template in memory alone where all of it is there, else drop it."""
        state = self._state
        state.observer.failed(self._tier.name)
        log.warning("template %s cannot be written to the %s tier: %s", entry.template, self._tier.name, error)
        with state.changed:
            if entry.is_committed and not entry.is_gone and not entry.tiers:
                self._error = error
            if not entry.is_gone:
                state.keep_in_memory(entry, error)
        self._delete(entry)
