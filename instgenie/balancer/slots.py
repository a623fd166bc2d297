"""A batch as places that edits take one after the other. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from instgenie.sched.limits import BatchLimits


def width(rows: int, limits: BatchLimits) -> int:
    """How many places of a batch an edit of so many rows takes, as they share the rows that a step may compute."""
    return max(1, min(limits.edits, round(rows * limits.edits / limits.rows)))


@dataclass(frozen=True, slots=True)
class Slots:
    """When places become free.

    Edits take places in the order in which they came, and all that have one take one step at a time. So it is known
    after which step each place is free, as long as all goes as planned.

    Attributes:
        free_at: steps, counted since the replica began, after which each place is free; rising.
        seconds: what the last edit in a place adds to a step, by place.
    """

    free_at: list[int]
    seconds: list[float]

    @classmethod
    def fill(cls, places: int, taken: int, edits: Iterable[tuple[int, int, float]]) -> Self:
        """Where edits go.

        Args:
            taken: steps, by now.
            edits: in their order: steps that are left, places, seconds a step. No fewer than 1, and no more places than
                there are.
        """
        free_at, seconds = [taken] * places, [0.0] * places
        for steps, wide, edit_seconds in edits:
            until = free_at[wide - 1] + steps
            place = bisect_right(free_at, until, wide)
            free_at = free_at[wide:place] + [until] * wide + free_at[place:]
            seconds = seconds[wide:place] + [edit_seconds / wide] * wide + seconds[place:]
        return cls(free_at, seconds)
