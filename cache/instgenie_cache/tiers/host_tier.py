"""The host tier's books: which steps lie where in the arena, who uses them and who has to go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from instgenie_cache.eviction import EvictionPolicy
from instgenie_cache.records.slab import Slab
from instgenie_cache.tiers.arena import Arena
from instgenie_cache.tiers.pages import Extent, PageAllocator


@dataclass(frozen=True, slots=True, order=True)
class StepKey:
    """A step of a template: the records of all its blocks, in one slab."""

    template: str
    step: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """Room for a step that is about to be filled.

    Attributes:
        evicted: steps that had to go for it, in the policy's order.
    """

    slab: Slab
    extents: tuple[Extent, ...]
    evicted: tuple[StepKey, ...]


@dataclass(slots=True, eq=False)
class _Held:
    """The pages of a step. `is_listed`: readers find it; else they go with the last pin."""

    key: StepKey
    slab: Slab
    extents: tuple[Extent, ...]
    pages_bytes: int
    cost_ms: float
    is_listed: bool = False
    pins: int = 0


@dataclass(slots=True, eq=False)
class Pin:
    """The right to read a step's memory: its pages go to nobody else until `release`.

    Also where the step is discarded meanwhile, and even reserved anew: the new one lies elsewhere.
    """

    _tier: HostTier = field(repr=False)
    _held: _Held = field(repr=False)
    _is_open: bool = True

    @property
    def key(self) -> StepKey:
        """Whose step it is."""
        return self._held.key

    @property
    def slab(self) -> Slab:
        """The step's memory; not to be used after `release`."""
        return self._held.slab

    @property
    def extents(self) -> tuple[Extent, ...]:
        """Where that lies in the arena."""
        return self._held.extents

    def release(self) -> None:
        """Give up the right. A second time it does nothing."""
        if self._is_open:
            self._is_open = False
            self._tier._unpin(self._held)


class HostTier:
    """Steps in the pages of one arena. Not thread-safe; it neither waits nor touches the memory itself.

    A step is reserved, filled by the caller and then published or cancelled. Published ones are found, pinned and,
    while nobody pins them, evicted for later reservations.
    """

    def __init__(self, arena: Arena, policy: EvictionPolicy[StepKey]) -> None:
        self._arena = arena
        self._policy = policy
        self._pages = PageAllocator(arena.num_bytes, arena.page_bytes)
        self._reserved: dict[StepKey, _Held] = {}
        self._published: dict[StepKey, _Held] = {}
        self._steps: dict[str, set[int]] = {}  # of `_published`, by template
        self._evictable_bytes = 0
        self._evictions = 0

    @property
    def arena(self) -> Arena:
        """The memory."""
        return self._arena

    @property
    def total_bytes(self) -> int:
        """Of the arena."""
        return self._pages.total_bytes

    @property
    def free_bytes(self) -> int:
        """In pages that nobody has."""
        return self._pages.free_bytes

    @property
    def used_bytes(self) -> int:
        """In pages of steps: published, reserved, and discarded ones that are still pinned."""
        return self.total_bytes - self.free_bytes

    @property
    def evictable_bytes(self) -> int:
        """In pages of published steps that nobody pins."""
        return self._evictable_bytes

    @property
    def largest_free_bytes(self) -> int:
        """The longest stretch of free pages."""
        return self._pages.largest_free_bytes

    @property
    def evictions(self) -> int:
        """Steps that were evicted so far."""
        return self._evictions

    def pages_bytes(self, num_bytes: int) -> int:
        """What a step of so many bytes takes, in whole pages."""
        return self._pages.pages_bytes(num_bytes)

    def __len__(self) -> int:
        """How many steps are published."""
        return len(self._published)

    def __contains__(self, key: StepKey) -> bool:
        """Whether the step is published. Asking is no use of it."""
        return key in self._published

    def steps(self, template: str) -> tuple[int, ...]:
        """The template's published steps, in order."""
        return tuple(sorted(self._steps.get(template, ())))

    def peek(self, key: StepKey) -> Slab | None:
        """The step's memory, None where it is not published. This is no use of it."""
        held = self._published.get(key)
        return None if held is None else held.slab

    def extents(self, key: StepKey) -> tuple[Extent, ...] | None:
        """Where a published step lies in the arena. This is no use of it."""
        held = self._published.get(key)
        return None if held is None else held.extents

    def get(self, key: StepKey) -> Slab | None:
        """Use a step: its memory, None where it is not published."""
        held = self._published.get(key)
        if held is None:
            return None
        self._policy.touch(key)
        return held.slab

    def pin(self, key: StepKey) -> Pin | None:
        """Keep a published step where it is, None where there is none. Pins are counted; pinning is no use of it."""
        held = self._published.get(key)
        if held is None:
            return None
        if not held.pins:
            self._evictable_bytes -= held.pages_bytes
        held.pins += 1
        return Pin(self, held)

    def reserve(self, key: StepKey, num_bytes: int, cost_ms: float) -> Reservation | None:
        """Take pages for a step that is about to be filled, evicting others as needed.

        Readers do not find it, and it is not evicted, until it is published.

        Args:
            key: neither reserved nor published.
            num_bytes: of the step, more than 0.
            cost_ms: of having it again once it is gone.

        Returns:
            None where pages would not suffice even so; nothing is evicted then.
        """
        assert key not in self._reserved, f"{key} is reserved already"
        assert key not in self._published, f"{key} is there already"
        pages_bytes = self._pages.pages_bytes(num_bytes)
        if pages_bytes > self.free_bytes + self._evictable_bytes:
            return None
        evicted = tuple(self._victims(pages_bytes - self.free_bytes))
        for victim in evicted:
            self._withdraw(victim, evicted=True)
        extents = self._pages.allocate(num_bytes)
        assert extents is not None
        held = _Held(key, self._arena.slab(extents), extents, pages_bytes, cost_ms)
        self._reserved[key] = held
        return Reservation(held.slab, extents, evicted)

    def publish(self, key: StepKey, cost_ms: float | None = None) -> None:
        """A reserved step is filled: readers find it.

        Args:
            cost_ms: where it became known only since the step was reserved.
        """
        held = self._reserved.pop(key)
        held.cost_ms = held.cost_ms if cost_ms is None else cost_ms
        held.is_listed = True
        self._published[key] = held
        self._steps.setdefault(key.template, set()).add(key.step)
        self._evictable_bytes += held.pages_bytes
        self._policy.insert(key, held.pages_bytes, held.cost_ms)

    def cancel(self, key: StepKey) -> None:
        """Give up a reservation. Nobody may write to its memory any more."""
        self._pages.free(self._reserved.pop(key).extents)

    def discard(self, key: StepKey) -> bool:
        """Drop a published step: readers do not find it, and the key may be reserved anew.

        Its pages are free at once, or with the last pin. A step that is only reserved is left to who reserved it.

        Returns:
            Whether it was there.
        """
        if key not in self._published:
            return False
        self._withdraw(key, evicted=False)
        return True

    def _victims(self, missing_bytes: int) -> Iterable[StepKey]:
        """Who goes, in the policy's order, so that so many bytes become free."""
        victims: list[StepKey] = []
        if missing_bytes <= 0:
            return victims
        for key in self._policy.ranked():
            held = self._published[key]
            if not held.pins:
                victims.append(key)
                missing_bytes -= held.pages_bytes
                if missing_bytes <= 0:
                    break
        assert missing_bytes <= 0, "the policy has not ranked every step"
        return victims

    def _withdraw(self, key: StepKey, *, evicted: bool) -> None:
        held = self._published.pop(key)
        held.is_listed = False
        steps = self._steps[key.template]
        steps.remove(key.step)
        if not steps:
            del self._steps[key.template]
        self._policy.remove(key, evicted=evicted)
        self._evictions += evicted
        if not held.pins:
            self._evictable_bytes -= held.pages_bytes
            self._pages.free(held.extents)

    def _unpin(self, held: _Held) -> None:
        held.pins -= 1
        if held.pins:
            return
        if held.is_listed:
            self._evictable_bytes += held.pages_bytes
        else:
            self._pages.free(held.extents)
