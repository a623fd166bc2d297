"""What a tiered store knows, and the decisions that need nothing else. No I/O; every call is made under the lock."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from instgenie_cache.errors import BeingWrittenError, CacheError, StoreFullError
from instgenie_cache.eviction import EvictionPolicy
from instgenie_cache.names import is_within
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.stores.observer import StoreObserver
from instgenie_cache.stores.template_books import TemplateBooks
from instgenie_cache.stores.template_entry import TemplateEntry
from instgenie_cache.tiers.host_tier import HostTier, Pin, Reservation
from instgenie_cache.tiers.tier import ColdTier

_RELOAD_MS_PER_BYTE = 1e-6  # of a tier at 1 GB/s; only ratios count, and steps are compared with steps


class StoreState:
    """Templates, their steps in the host tier, and the books.

    Attributes:
        changed: the lock; notified when room was made, a step was written or a load ended.
        nearest: the tier that templates are written to as they come, and evicted from; this store's alone.
        shared: tiers behind it that other machines use too; templates are copied there and found there.
        entries: templates that readers find.
        writing: templates that are being written: one writer each.
        deleting: templates whose deletion from the shared tiers is still to be done: they are not looked up there.
    """

    def __init__(
        self, host: HostTier, cold: Sequence[ColdTier], cold_policy: EvictionPolicy[str], observer: StoreObserver
    ) -> None:
        self.changed = threading.Condition()
        self.host, self.cold_policy, self.observer = host, cold_policy, observer
        self.nearest = next((tier for tier in cold if not tier.is_shared), None)
        self.shared = tuple(tier for tier in cold if tier.is_shared)
        self.entries: dict[str, TemplateEntry] = {}
        self.writing: dict[str, TemplateEntry] = {}
        self.deleting: set[str] = set()
        self.books = TemplateBooks()
        self.is_closed = False
        self._by_host_name: dict[str, TemplateEntry] = {}
        # Which a new template cannot take the room of, in the nearest tier: leased, pinned, or not written to it yet.
        self._in_use: set[TemplateEntry] = set()
        self._announced_bytes = 0  # pages that templates being written will still take and keep in the host tier

    # Writing

    def begin(self, template: str, size: TemplateSize) -> TemplateEntry:
        """A template that is going to be written. It is gone from the start where it is there already.

        Raises:
            BeingWrittenError: somebody else writes it.
            StoreFullError: it would not fit even if everything evictable were evicted.
        """
        if template in self.writing:
            raise BeingWrittenError(f"template {template} is being written by another writer")
        entry = TemplateEntry(template, size, is_volatile=self.nearest is None)
        if template in self.entries:
            entry.is_gone = True
            return entry
        self._check_room(entry)
        self.writing[template] = entry
        self._by_host_name[entry.host_name] = entry
        if entry.is_volatile:
            self._announced_bytes += size.steps * self.host.pages_bytes(size.step_bytes)
        self._note_use(entry)
        return entry

    def reserve(self, entry: TemplateEntry, step: int) -> Reservation | None:
        """Memory for a step, others evicted for it; None where all the rest is in use just now."""
        reload_ms = entry.size.step_bytes * _RELOAD_MS_PER_BYTE
        reservation = self.host.reserve(entry.step_key(step), entry.size.step_bytes, reload_ms)
        if reservation is None:
            return None
        if entry.is_volatile and not entry.is_committed:
            self._announced_bytes -= self.host.pages_bytes(entry.size.step_bytes)
        if reservation.evicted:
            self.observer.evicted("host", len(reservation.evicted))
        for other in {self._by_host_name[key.template] for key in reservation.evicted}:
            if other.is_volatile:
                self.books.evicted(other.template)
                self.drop(other)
        return reservation

    def commit(self, entry: TemplateEntry, size: TemplateSize, cost_ms: float, note: bytes = b"") -> bool:
        """Let readers find a template; False where nobody wants it any more.

        Args:
            size: what was announced, or fewer steps of it.
        """
        if entry.is_gone:
            return False
        del self.writing[entry.template]
        if entry.is_volatile:
            missing = entry.size.steps - len(entry.reserved)
            self._announced_bytes -= missing * self.host.pages_bytes(size.step_bytes)
        for step in [step for step in entry.reserved if step >= size.steps]:  # of which nothing was put
            del entry.reserved[step]
            self.host.cancel(entry.step_key(step))
        entry.size, entry.cost_ms, entry.note = size, cost_ms, note
        self._list(entry)
        for step in tuple(entry.reserved):  # there is no tier below: what would be lost is the computation
            del entry.reserved[step]
            self.host.publish(entry.step_key(step), cost_ms / entry.size.steps)
        self.changed.notify_all()  # published pages are room for others
        return True

    def add(self, entry: TemplateEntry) -> None:
        """A template that a tier below has: readers find it from now on."""
        self._by_host_name[entry.host_name] = entry
        self._list(entry)
        if self.is_near(entry):
            self.cold_policy.insert(entry.template, self.footprint_bytes(entry), entry.cost_ms)

    def has_in(self, entry: TemplateEntry, tier: ColdTier) -> None:
        """A tier has all of the template now."""
        if tier in entry.tiers:
            return
        if tier is self.nearest:
            entry.tiers.insert(0, tier)
            entry.written.clear()
            self.cold_policy.insert(entry.template, self.footprint_bytes(entry), entry.cost_ms)
        else:
            entry.tiers.append(tier)
        entry.is_volatile = False
        self._unguard(entry)
        self._note_use(entry)
        self.changed.notify_all()

    def lost_in(self, entry: TemplateEntry, tier: ColdTier) -> None:
        """A tier's copy, or what was written of one, is broken or gone. The template is dropped where no other tier has
        it."""
        if tier in entry.tiers:
            entry.tiers.remove(tier)
            entry.losses[tier.name] += 1
            if tier is self.nearest:
                self.cold_policy.remove(entry.template, evicted=False)
        elif tier is self.nearest:
            self.give_up_written(entry)
        if not entry.tiers:
            self.drop(entry)

    def give_up_written(self, entry: TemplateEntry) -> None:
        """What the nearest tier has of a template that it does not have all of is of no use."""
        entry.written.clear()
        if self.nearest is not None:
            entry.losses[self.nearest.name] += 1

    # Reading

    def resident(self, entry: TemplateEntry, step: int) -> Pin | None:
        """A step that is in memory, kept there until the pin is released."""
        key = entry.step_key(step)
        if self.host.get(key) is None:  # a use
            return None
        return self.host.pin(key)

    def lease(self, entry: TemplateEntry) -> None:
        """Keep a template from being evicted."""
        entry.leases += 1
        self._guard(entry)
        self._note_use(entry)

    def release(self, entry: TemplateEntry) -> None:
        """The reverse of `lease`."""
        entry.leases -= 1
        self._unguard(entry)
        self._note_use(entry)

    def set_pinned(self, entry: TemplateEntry, pinned: bool) -> None:
        """Keep a template from being evicted until told otherwise."""
        entry.is_pinned = pinned
        self._guard(entry)
        self._unguard(entry)
        self._note_use(entry)

    # Going

    def drop(self, entry: TemplateEntry) -> None:
        """Let nobody find a template any more. Tiers below the host are not told. A second time it does nothing."""
        if entry.is_gone:
            return
        entry.is_gone = True
        if self.entries.get(entry.template) is entry:
            del self.entries[entry.template]
            self.books.went(entry.template, entry.size.num_bytes)
        if self.writing.get(entry.template) is entry:
            del self.writing[entry.template]
            if entry.is_volatile:
                missing = entry.size.steps - len(entry.reserved)
                self._announced_bytes -= missing * self.host.pages_bytes(entry.size.step_bytes)
        if self.is_near(entry):
            self.cold_policy.remove(entry.template, evicted=False)
        entry.is_pinned = False
        self._let_unwritten_go(entry)
        self._unguard(entry, even_if_held=True)
        self._in_use.discard(entry)
        for step in self.host.steps(entry.host_name):
            self.host.discard(entry.step_key(step))
        self._by_host_name.pop(entry.host_name, None)
        self.changed.notify_all()

    def evict_cold(self, entry: TemplateEntry) -> None:
        """Drop a victim; it is the caller who deletes it from the tier."""
        assert self.nearest is not None
        self.cold_policy.remove(entry.template, evicted=True)
        entry.tiers.clear()
        self.books.evicted(entry.template)
        self.observer.evicted(self.nearest.name, 1)
        self.drop(entry)

    def keep_in_memory(self, entry: TemplateEntry, error: CacheError) -> None:
        """A template that the nearest tier did not take: it stays in memory where it is whole, else it is dropped."""
        entry.error = error
        steps = range(entry.size.steps)
        is_whole = entry.is_committed and all(entry.step_key(step) in self.host for step in steps)
        if not is_whole and not entry.tiers:
            if entry.is_committed:
                self.books.evicted(entry.template)
            self.drop(entry)
            return
        entry.is_volatile = not entry.tiers
        self._guard(entry)
        self._let_unwritten_go(entry)
        self._note_use(entry)

    def is_short_of(self, num_bytes: int) -> bool:
        """Whether the nearest tier has no room for so many bytes more."""
        tier = self.nearest
        return tier is not None and tier.budget_bytes is not None and tier.used_bytes + num_bytes > tier.budget_bytes

    def cold_victims(self, num_bytes: int) -> list[TemplateEntry]:
        """Templates to drop so that the nearest tier has room for so many bytes more.

        Raises:
            StoreFullError: what is in use leaves no such room.
        """
        assert self.nearest is not None
        budget = self.nearest.budget_bytes
        if budget is None:
            return []
        missing = self.nearest.used_bytes + num_bytes - budget
        victims = []
        for template in self.cold_policy.ranked():
            if missing <= 0:
                break
            entry = self.entries[template]
            if not entry.is_held:
                victims.append(entry)
                missing -= self.footprint_bytes(entry)
        if missing > 0:
            raise StoreFullError(
                f"{num_bytes} bytes do not fit the {budget} of the {self.nearest.name} tier: the rest is in use"
            )
        return victims

    # Books

    def is_near(self, entry: TemplateEntry) -> bool:
        """Whether the nearest tier has all of the template."""
        return self.nearest is not None and self.nearest in entry.tiers

    def is_settled(self, entry: TemplateEntry) -> bool:
        """Whether a restart does not lose a template: a tier below keeps it, or it was deleted or evicted."""
        return any(tier.fault is None for tier in entry.tiers) or (entry.is_gone and entry.error is None)

    def why_not_durable(self, entry: TemplateEntry) -> CacheError | None:
        """Why a restart will lose a template whose writing has ended; None where it will not."""
        if self.is_settled(entry):
            return None
        fault = None if self.nearest is None else self.nearest.fault
        return entry.error or (None if fault is None else CacheError(f"template {entry.template}: {fault}"))

    def footprint_bytes(self, entry: TemplateEntry) -> int:
        """What a template takes of the nearest tier's budget."""
        return 0 if self.nearest is None else self.nearest.footprint_bytes(entry.size, len(entry.note))

    def seen(self, namespace: str | None) -> Iterator[TemplateEntry]:
        """Committed templates of a namespace, or all."""
        return (entry for name, entry in self.entries.items() if is_within(name, namespace))

    def written_bytes(self, namespace: str | None) -> int:
        """Payload of complete steps of templates that are being written."""
        writing = (entry for name, entry in self.writing.items() if is_within(name, namespace))
        return sum(
            len(entry.written | entry.unwritten.keys()) * entry.size.blocks * entry.size.record_bytes
            for entry in writing
        )

    def _list(self, entry: TemplateEntry) -> None:
        entry.is_committed = True
        self.entries[entry.template] = entry
        self.books.came(entry.template, entry.size.num_bytes)

    def _check_room(self, entry: TemplateEntry) -> None:
        size = entry.size
        step_bytes = self.host.pages_bytes(size.step_bytes)
        if step_bytes > self.host.total_bytes:
            raise StoreFullError(
                f"a step of {size.step_bytes} bytes does not fit the {self.host.total_bytes} bytes of the host tier"
            )
        if self.nearest is None:
            free = self.host.free_bytes + self.host.evictable_bytes - self._announced_bytes
            if size.steps * step_bytes > free:
                raise StoreFullError(
                    f"a template of {size.steps * step_bytes} bytes does not fit: {free} of {self.host.total_bytes} "
                    "bytes are neither being written, read nor pinned"
                )
            return
        budget = self.nearest.budget_bytes
        if budget is None:
            return
        footprint_bytes = self.nearest.footprint_bytes(size)
        taken = sum(self.footprint_bytes(other) for other in self._in_use)
        if taken + footprint_bytes > budget:
            raise StoreFullError(
                f"a template of {footprint_bytes} bytes does not fit: {taken} of {budget} bytes of the "
                f"{self.nearest.name} tier are being written, read or pinned"
            )

    def _note_use(self, entry: TemplateEntry) -> None:
        if self.nearest is not None and not entry.is_gone:
            is_coming = not entry.is_volatile and not entry.tiers
            is_used = entry.is_held and (is_coming or self.is_near(entry))
            (self._in_use.add if is_coming or is_used else self._in_use.discard)(entry)

    def _guard(self, entry: TemplateEntry) -> None:
        """Keep the steps of a template in use that is nowhere else."""
        if entry.is_volatile and entry.is_held and not entry.guards and not entry.is_gone:
            pins = (self.host.pin(entry.step_key(step)) for step in range(entry.size.steps))
            entry.guards = [pin for pin in pins if pin is not None]

    def _unguard(self, entry: TemplateEntry, *, even_if_held: bool = False) -> None:
        if entry.guards and (even_if_held or not entry.is_held or not entry.is_volatile):
            for pin in entry.guards:
                pin.release()
            entry.guards = []
            self.changed.notify_all()

    def _let_unwritten_go(self, entry: TemplateEntry) -> None:
        self.give_up_written(entry)
        for pin in entry.unwritten.values():
            pin.release()
        entry.unwritten.clear()
        self.changed.notify_all()
