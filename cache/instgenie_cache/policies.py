"""The eviction policies: least recently used, least frequently used, and cost by size (GDSF)."""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic

from instgenie_cache.eviction import EvictionPolicy, Item, PolicyName

_SPARE_ENTRIES = 64  # outdated ones that a heap may always have, so that a small one is not rebuilt all the time


def make_policy(name: PolicyName) -> EvictionPolicy[Item]:
    """A policy by its name, for a tier of its own.

    Raises:
        ValueError: there is none of that name.
    """
    match name:
        case "lru":
            return LruPolicy()
        case "lfu":
            return LfuPolicy()
        case "gdsf":
            return GdsfPolicy()
    raise ValueError(f"the eviction policies are lru, lfu and gdsf, not {name!r}")


class LruPolicy(Generic[Item]):
    """What was not used for longest goes first."""

    def __init__(self) -> None:
        self._items: OrderedDict[Item, None] = OrderedDict()

    def insert(self, item: Item, num_bytes: int, cost: float) -> None:  # noqa: ARG002 - neither counts
        """See `EvictionPolicy`."""
        assert item not in self._items
        self._items[item] = None

    def touch(self, item: Item) -> None:
        """See `EvictionPolicy`."""
        self._items.move_to_end(item)

    def remove(self, item: Item, *, evicted: bool) -> None:  # noqa: ARG002 - gone is gone
        """See `EvictionPolicy`."""
        del self._items[item]

    def ranked(self) -> Iterator[Item]:
        """See `EvictionPolicy`."""
        return iter(self._items)


@dataclass(slots=True)
class _Standing:
    """What a heap policy knows of an item: `gain` is what one use counts, `sequence` numbers its last use."""

    gain: float
    uses: int = 0
    priority: float = 0.0
    sequence: int = 0


class _HeapPolicy(ABC, Generic[Item]):
    """The lowest priority goes first; of equal ones, what was not used for longest.

    A use adds an entry to the heap and leaves the item's former one there, outdated. Once those are in the majority the
    heap is built anew: it has at most about twice as many entries as there are items, and a call takes O(log n) on
    average.
    """

    def __init__(self) -> None:
        self._standings: dict[Item, _Standing] = {}
        self._heap: list[tuple[float, int, Item]] = []
        self._sequence = 0

    def insert(self, item: Item, num_bytes: int, cost: float) -> None:
        """See `EvictionPolicy`."""
        assert item not in self._standings
        assert num_bytes > 0
        assert 0 <= cost < math.inf, f"a cost of {cost} ms cannot be ranked"
        self._standings[item] = _Standing(self._gain(num_bytes, cost))
        self.touch(item)

    def touch(self, item: Item) -> None:
        """See `EvictionPolicy`."""
        standing = self._standings[item]
        self._sequence += 1
        standing.sequence = self._sequence
        standing.uses += 1
        standing.priority = self._priority(standing)
        heapq.heappush(self._heap, (standing.priority, standing.sequence, item))
        self._tidy()

    def remove(self, item: Item, *, evicted: bool) -> None:
        """See `EvictionPolicy`."""
        standing = self._standings.pop(item)
        if evicted:
            self._went(standing)
        self._tidy()

    def ranked(self) -> Iterator[Item]:
        """See `EvictionPolicy`. Nothing is sorted ahead, so asking for the first few is cheap."""
        # Walks down the heap, which is a tree in a list, with a heap of the entries whose parents were passed.
        heap = self._heap
        border = [(heap[0], 0)] if heap else []
        while border:
            (_, sequence, item), index = heapq.heappop(border)
            for child in (2 * index + 1, 2 * index + 2):
                if child < len(heap):
                    heapq.heappush(border, (heap[child], child))
            if self._is_current(sequence, item):
                yield item

    @abstractmethod
    def _gain(self, num_bytes: int, cost: float) -> float:
        """What a use of such an item counts."""

    @abstractmethod
    def _priority(self, standing: _Standing) -> float:
        """Of an item that was used right now."""

    def _went(self, standing: _Standing) -> None:
        """An item was evicted."""

    def _is_current(self, sequence: int, item: Item) -> bool:
        standing = self._standings.get(item)
        return standing is not None and standing.sequence == sequence

    def _tidy(self) -> None:
        while self._heap and not self._is_current(*self._heap[0][1:]):
            heapq.heappop(self._heap)
        if len(self._heap) > 2 * len(self._standings) + _SPARE_ENTRIES:
            self._heap = [(s.priority, s.sequence, item) for item, s in self._standings.items()]
            heapq.heapify(self._heap)


class LfuPolicy(_HeapPolicy[Item]):
    """What was used least often goes first; of equals, what was not used for longest. What is removed is forgotten."""

    def _gain(self, num_bytes: int, cost: float) -> float:  # noqa: ARG002 - neither counts
        return 1.0

    def _priority(self, standing: _Standing) -> float:
        return standing.uses


class GdsfPolicy(_HeapPolicy[Item]):
    """Greedy-dual-size with frequency (Cherkasova 1998): priority = L + uses x cost / bytes, at the last use.

    L is the highest priority that was evicted so far. What is used now starts from there, so that items which were
    popular once are overtaken. Where nothing costs anything this is least recently used.
    """

    def __init__(self) -> None:
        super().__init__()
        self._level = 0.0

    def _gain(self, num_bytes: int, cost: float) -> float:
        return cost / num_bytes

    def _priority(self, standing: _Standing) -> float:
        return self._level + standing.uses * standing.gain

    def _went(self, standing: _Standing) -> None:
        self._level = max(self._level, standing.priority)
