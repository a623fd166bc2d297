"""Which item of a tier goes first when room is needed. Pure: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Literal, Protocol, TypeVar

Item = TypeVar("Item", bound=Hashable)
PolicyName = Literal["lru", "lfu", "gdsf"]


class EvictionPolicy(Protocol[Item]):
    """Ranks the items of a tier. The tier tells it of everything that happens, and asks who goes first.

    An item is told of once by `insert`, any number of times by `touch`, and is forgotten by `remove`.
    """

    def insert(self, item: Item, num_bytes: int, cost: float) -> None:
        """A new item, used once by that.

        Args:
            num_bytes: that it takes in the tier, more than 0.
            cost: of having it again once it is gone, in milliseconds.
        """
        ...

    def touch(self, item: Item) -> None:
        """The item was used."""
        ...

    def remove(self, item: Item, *, evicted: bool) -> None:
        """The item is gone: evicted to make room, or deleted."""
        ...

    def ranked(self) -> Iterator[Item]:
        """The items, the one that should go first first. Nothing may be changed while this is iterated."""
        ...
