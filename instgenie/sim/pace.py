"""How fast a replica is as time goes by: its machine has other work, too, and cores are not always as fast. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class Pace:
    """By how much everything that a replica does takes longer than its model's costs say.

    Attributes:
        since: seconds on the simulation's clock, rising, from which on each factor holds; the first one holds before.
        factors: as many; 1 is as the costs say.

    Raises:
        ValueError: there are none, or not as many of both; times that do not rise, or factors that are not above 0.
    """

    since: Sequence[float] = (0.0,)
    factors: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        if not self.since or len(self.since) != len(self.factors) or sorted(self.since) != list(self.since):
            raise ValueError(
                f"{len(self.since)} times, which have to rise, and {len(self.factors)} factors are no pace"
            )
        if not all(0 < factor < inf for factor in self.factors):
            raise ValueError(f"{min(self.factors)} to {max(self.factors)} are no factors of time")

    @property
    def is_steady(self) -> bool:
        """Whether the costs say it all."""
        return all(factor == 1 for factor in self.factors)

    def at(self, now: float) -> float:
        """The factor at that time."""
        return self.factors[max(0, bisect_right(self.since, now) - 1)]


STEADY = Pace()
