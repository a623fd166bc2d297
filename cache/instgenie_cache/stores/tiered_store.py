"""Templates in memory and in the tiers below it: the host tier, LMDB, an object store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from heapq import nsmallest

from instgenie_cache.errors import CacheError
from instgenie_cache.eviction import EvictionPolicy
from instgenie_cache.names import is_template_name, is_within
from instgenie_cache.records.manifest import Manifest
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.stores.observer import NoObserver, StoreObserver
from instgenie_cache.stores.replicator import Replicator, ReplicatorTimes
from instgenie_cache.stores.silence import Silence
from instgenie_cache.stores.step_loader import StepLoader
from instgenie_cache.stores.store import StoreStats
from instgenie_cache.stores.store_state import StoreState
from instgenie_cache.stores.store_sweep import StoreSweep
from instgenie_cache.stores.template_entry import TemplateEntry
from instgenie_cache.stores.tiered_lease import TieredLease
from instgenie_cache.stores.tiered_writer import TieredWriter
from instgenie_cache.stores.write_behind import WriteBehind
from instgenie_cache.tiers.arena import Arena
from instgenie_cache.tiers.disk_tier import DiskTier
from instgenie_cache.tiers.host_tier import HostTier
from instgenie_cache.tiers.tier import ColdTier, TierName

log = logging.getLogger(__name__)

_MAX_DELETIONS = 10_000  # from shared tiers, that wait


class TieredStore:
    """A `RecordStore` over a host tier and tiers below it.

    Records are put into the host tier. Where there is a tier below, every step is written there in the background as
    soon as it is complete, the manifest after all of them; so a template may be larger than the memory, and one that is
    committed is found at once, durable a little later (`flush`). Without one, templates are evicted whole.

    A shared tier that takes long to fail is left alone for a while: templates that only it has are not found then.

    Takes one writer of a template at a time. Reading a step loads it into the host tier. A template with a record that
    is lost or corrupt is dropped. Nothing that a tier fails to do makes a read fail that another can serve.
    """

    def __init__(
        self,
        host: HostTier,
        cold: Sequence[ColdTier],
        cold_policy: EvictionPolicy[str],
        observer: StoreObserver | None = None,
        times: ReplicatorTimes | None = None,
    ) -> None:
        """The store owns all of them from now on, and closes the tiers.

        Args:
            host: empty.
            cold: tiers below the host, nearest first. The first that is not shared is written to as templates come, and
                what it holds is found at once; templates of the shared ones are looked up when they are asked for.
            cold_policy: empty; ranks the templates of the tier that is not shared.
            times: of what goes to shared tiers, in the background.
        """
        self._state = StoreState(host, cold, cold_policy, observer or NoObserver())
        self._tiers = tuple(cold)
        times = times or ReplicatorTimes()
        self._silence = Silence(times.retry_seconds, times.slow_seconds)
        self._loader = StepLoader(self._state, self._is_broken, self._silence)
        nearest = self._state.nearest
        self._behind = None if nearest is None else WriteBehind(self._state, nearest, self._copy)
        self._replicator = None
        if self._state.shared:
            self._replicator = Replicator(self._state, self._loader, self._behind, times, self._silence)
        if nearest is not None:
            self._find_what_is_there(nearest)
        for thread in (self._behind, self._replicator):
            if thread is not None:
                thread.start()

    # RecordStore

    def create(self, template: str, size: TemplateSize) -> TieredWriter:
        """See `RecordStore`. One writer of a template at a time; where it is there already, what is put is not kept."""
        with self._state.changed:
            self._check_open()
            if not is_template_name(template):
                raise CacheError(f"{template[:140]!r} is no name of a template")
            if not (size.steps and size.blocks):
                raise CacheError(f"a template has at least one record, not {size.steps} x {size.blocks}")
            entry = self._state.begin(template, size)
            return TieredWriter(self._state, self._behind, entry, self._copy, self._state.entries.get(template, entry))

    def lease(self, template: str, *, look_up: bool = True) -> TieredLease | None:
        """See `RecordStore`.

        Args:
            look_up: in the shared tiers, too, if need be.
        """
        entry = self._find(template, look_up)
        with self._state.changed:
            self._check_open()
            if entry is None or entry.is_gone:
                self._state.books.missed(template)
                self._state.observer.miss()
                return None
            self._state.books.hit(template)
            if self._state.is_near(entry):
                self._state.cold_policy.touch(template)
            if entry.tiers or entry.is_volatile:
                self._copy(entry)  # which may have failed before
            self._state.lease(entry)
            tier = self._tier_of(entry)
            self._state.observer.hit(tier)
            return TieredLease(self._state, self._loader, entry, tier)

    def holds(self, template: str) -> bool:
        """See `RecordStore`."""
        return self._find(template) is not None

    def num_bytes(self, template: str, *, look_up: bool = True) -> int | None:
        """See `RecordStore`; `look_up` as in `lease`."""
        entry = self._find(template, look_up)
        return None if entry is None else entry.size.num_bytes

    def delete(self, template: str) -> None:
        """See `RecordStore`. It is gone for everyone here at once, from the tiers, shared ones too, a little later."""
        with self._state.changed:
            self._check_open()
            if len(self._state.deleting) >= _MAX_DELETIONS and template not in self._state.deleting:
                raise CacheError(f"{_MAX_DELETIONS} deletions wait for the shared tiers, more are not taken")
            for entry in (self._state.entries.get(template), self._state.writing.get(template)):
                if entry is not None:
                    (self._behind or self._state).drop(entry)
            if self._replicator is not None:
                self._replicator.delete(template)

    def pin(self, template: str, *, look_up: bool = True) -> bool:
        """See `RecordStore`; `look_up` as in `lease`."""
        entry = self._find(template, look_up)
        with self._state.changed:
            if entry is None or entry.is_gone:
                return False
            self._state.set_pinned(entry, True)
            return True

    def unpin(self, template: str) -> None:
        """See `RecordStore`."""
        with self._state.changed:
            entry = self._state.entries.get(template)
            if entry is not None:
                self._state.set_pinned(entry, False)

    def flush(self) -> None:
        """See `RecordStore`: in the nearest tier below the host, as durable as that makes it.

        Raises:
            CacheError: a template that was committed since the last flush is in no tier, or the nearest will lose with
                the next start what no shared one has.
        """
        if self._behind is not None:
            self._behind.flush()

    def close(self) -> None:
        """See `RecordStore`."""
        with self._state.changed:
            if self._state.is_closed:
                return
            self._state.is_closed = True
        if self._behind is not None:
            with suppress(CacheError):  # logged before
                self._behind.flush()  # what is on disk then is copied
        if self._replicator is not None:
            self._replicator.close()
        if self._behind is not None:
            self._behind.close()
        self._loader.close()
        for tier in self._tiers:
            tier.close()
        with self._state.changed:  # what nobody reads lets go of the memory
            for entry in (*self._state.entries.values(), *self._state.writing.values()):
                self._state.drop(entry)
        self._state.host.arena.close()

    def stats(self, namespace: str | None = None) -> StoreStats:
        """See `RecordStore`. With a namespace, of its templates alone, but for the budget."""
        state = self._state
        with state.changed:
            counts = state.books.of(namespace)
            nearest_bytes = state.nearest.budget_bytes if state.nearest is not None else None
            return StoreStats(
                counts.templates,
                counts.num_bytes + state.written_bytes(namespace),
                state.host.total_bytes if nearest_bytes is None else nearest_bytes,
                counts.hits,
                counts.misses,
                counts.evicted,
            )

    # For the service

    def lookup_blocks(self, template: str) -> bool:
        """Whether asking for a template may wait for a shared tier."""
        with self._state.changed:
            return template not in self._state.entries and self._may_look_up(template)

    def prefetch(self, template: str, steps: Sequence[int] | None = None) -> None:
        """Bring steps of a template into memory in the background, all of them where None, as far as half of the memory
        goes. An unknown one is none."""
        with self._state.changed:
            entry = self._state.entries.get(template)
            if entry is not None:
                host = self._state.host
                most = max(1, host.total_bytes // 2 // host.pages_bytes(entry.size.step_bytes))
                self._loader.prefetch(entry, (range(entry.size.steps) if steps is None else steps)[:most])

    def warm_up(self, should_stop: Callable[[], bool] = lambda: False) -> int:
        """Bring the newest templates into memory that is free, whole ones, as far as half of it goes; waits for tiers.

        Args:
            should_stop: asked before each step; the rest is left out then.

        Returns:
            How many were brought.
        """
        warmed: list[TemplateEntry] = []
        for entry in self._newest(self._state.host.total_bytes // 2):
            if not self._bring(entry, should_stop):
                break
            warmed.append(entry)
        with self._state.changed:
            for entry in reversed(warmed):  # else the newest, which came first, would be the first to go
                for step in range(entry.size.steps):
                    self._state.host.get(entry.step_key(step))
        return len(warmed)

    def templates(self, namespace: str | None, after: str = "", limit: int = 1000) -> list[tuple[str, int]]:
        """Names and payload bytes of committed templates, in alphabetical order."""
        with self._state.changed:
            known = list(self._state.entries.items())
        seen = ((name, entry.size.num_bytes) for name, entry in known if name > after and is_within(name, namespace))
        return nsmallest(limit, seen)

    def sweep(self, namespace: str | None = None, should_stop: Callable[[], bool] = lambda: False) -> tuple[int, int]:
        """Verify every record in the nearest tier below the host, and drop what is broken.

        Without a namespace, drop what no template has, too, there and in the shared tiers.

        Args:
            should_stop: asked before each step; the rest is left out then.

        Returns:
            Records that were read, templates that were dropped.
        """
        sweep = StoreSweep(self._state, self._is_broken, self._silence, should_stop)
        records, dropped = sweep.verify(namespace)
        if namespace is None:
            sweep.drop_leftovers()
        return records, dropped

    def sync(self) -> None:
        """Bring what was written to the disk, where the disk tier's policy leaves that to its owner."""
        for tier in self._tiers:
            if isinstance(tier, DiskTier):
                tier.sync()

    @property
    def arena(self) -> Arena:
        """The host tier's memory."""
        return self._state.host.arena

    @property
    def nearest(self) -> ColdTier | None:
        """The tier below the host, for figures alone."""
        return self._state.nearest

    @property
    def host(self) -> HostTier:
        """For figures alone."""
        return self._state.host

    # Inside

    def _find_what_is_there(self, tier: ColdTier) -> None:
        """Take over what a tier holds, as far as its budget goes; what cannot be deleted stays."""
        state = self._state
        if isinstance(tier, DiskTier):
            for _ in range(tier.broken_manifests):
                state.observer.corrupt(tier.name)
        with state.changed:
            for manifest in sorted(tier.manifests(), key=lambda manifest: manifest.created):
                state.add(_entry_of(manifest, tier))
            victims = state.cold_victims(0)
        for victim in victims:
            try:
                tier.delete(victim.template)
            except CacheError as error:
                log.warning("the %s tier stays above its budget: %s", tier.name, error)
                return
            with state.changed:
                state.evict_cold(victim)

    def _newest(self, room: int) -> list[TemplateEntry]:
        """The newest templates that fit so many bytes of memory together, the newest first."""
        chosen = []
        with self._state.changed:
            for entry in sorted(self._state.entries.values(), key=lambda entry: entry.created, reverse=True):
                pages_bytes = entry.size.steps * self._state.host.pages_bytes(entry.size.step_bytes)
                if pages_bytes <= room:
                    chosen.append(entry)
                    room -= pages_bytes
        return chosen

    def _bring(self, entry: TemplateEntry, should_stop: Callable[[], bool]) -> bool:
        """Bring a template into free memory; False where there is none left, or it is time to stop."""
        state = self._state
        for step in range(entry.size.steps):
            with state.changed:
                has_room = state.host.free_bytes >= state.host.pages_bytes(entry.size.step_bytes)
            if should_stop() or state.is_closed or not (has_room or entry.step_key(step) in state.host):
                return False
            try:
                self._loader.bring(entry, step)
            except CacheError as error:
                log.warning("template %s cannot be brought into memory: %s", entry.template, error)
                return False
        return True

    def _find(self, template: str, look_up: bool = True) -> TemplateEntry | None:
        """A template, looked up in the shared tiers if need be, and if wanted."""
        state = self._state
        with state.changed:
            entry = state.entries.get(template)
            if entry is not None or not look_up or not self._may_look_up(template):
                return entry
        for tier in state.shared:
            try:
                with self._silence.watch():
                    manifest = tier.manifest(template)
            except CacheError as error:
                state.observer.failed(tier.name)
                log.warning("template %s cannot be looked up in the %s tier: %s", template, tier.name, error)
                continue
            if manifest is None or state.host.pages_bytes(manifest.size.step_bytes) > state.host.total_bytes:
                continue
            with state.changed:
                if template in state.entries or not self._may_look_up(template):
                    return state.entries.get(template)
                found = _entry_of(manifest, tier)
                state.add(found)
                self._copy(found)
                return found
        return None

    def _may_look_up(self, template: str) -> bool:
        state = self._state
        if not state.shared or self._silence.lasts:
            return False
        return template not in state.writing and template not in state.deleting

    def _tier_of(self, entry: TemplateEntry) -> TierName:
        """The coldest tier that one of its steps has to come from."""
        if all(entry.step_key(step) in self._state.host for step in range(entry.size.steps)):
            return "host"
        if entry.tiers:
            return entry.tiers[0].name
        return "host" if self._state.nearest is None else self._state.nearest.name

    def _copy(self, entry: TemplateEntry) -> None:
        """Have all tiers get the template. Under the lock."""
        if self._replicator is not None:
            self._replicator.copy(entry)

    def _is_broken(self, entry: TemplateEntry, tier: ColdTier, step: int, losses: int) -> bool:
        """A tier's copy of a template is not whole: drop it there, and altogether where no other tier has one.

        Args:
            losses: of that tier's when the copy was read.

        Returns:
            False where it was dropped before.
        """
        with self._state.changed:
            if entry.is_gone or entry.losses[tier.name] != losses:
                return False
            if self._behind is None:
                self._state.lost_in(entry, tier)
            else:
                self._behind.lost(entry, tier)
            if tier is not self._state.nearest and self._replicator is not None:
                self._replicator.delete_broken(entry, tier, step)
            return True

    def _check_open(self) -> None:
        if self._state.is_closed:
            raise CacheError("the store was closed")


def _entry_of(manifest: Manifest, tier: ColdTier) -> TemplateEntry:
    return TemplateEntry(
        manifest.template, manifest.size, manifest.cost_ms, manifest.created, manifest.note, tiers=[tier]
    )
