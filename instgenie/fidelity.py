"""How close a cached edit is to the dense one, and at what price: the knobs, and their choice. Pure, without torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, inf

from instgenie.step_cache import MAX_STEP_CACHE

DEFAULT_HALO = 1
DEFAULT_STEP_CACHE = 1  # every step is computed
STEPS_A_REFRESH = 20
MAX_REFRESHES = 1000  # as many as there can be steps
CHOSEN_SETTINGS = ("halo", "refreshes", "step_cache")  # of an edit, by a bound
MIN_PSNR_DB, MAX_PSNR_DB, DEFAULT_PSNR_DB = 10, 100, 35.0  # bounds that can be asked for


def taken_steps(schedule_steps: int, strength: float) -> int:
    """Steps that an edit takes of its schedule, as of `flow_sigmas`."""
    return max(1, ceil(schedule_steps * strength - 1e-9))


def default_refreshes(steps: int) -> int:
    """Refreshes of an edit that takes so many steps, where none are asked for: one for every 20, and none below 10.

    At 20 steps the first one gains some 9 dB inside the mask, and each of the next three 2 to 3; at 4 steps one would
    cost more than masking saves.
    """
    return (steps + STEPS_A_REFRESH // 2) // STEPS_A_REFRESH


def refresh_steps(refreshes: int, steps: int) -> tuple[int, ...]:
    """The steps at which all tokens are computed: the first one, and others after it, ever farther apart.

    Early steps settle what the picture shows, and what a refresh found holds for longer when less changes.

    Args:
        refreshes: how many, from 0; more than there are steps are one at each.
    Returns:
        Steps of the edit's own, from 0, in rising order.
    """
    if refreshes >= steps:
        return tuple(range(steps))
    chosen: list[int] = []
    for number in range(refreshes):
        even = int(steps * (number / refreshes) ** 1.5)
        chosen.append(max(even, chosen[-1] + 1) if chosen else even)
    return tuple(chosen)


def mean_tokens(active_tokens: int, total_tokens: int, refreshes: int, steps: int) -> int:
    """Image tokens of a pass that an edit computes in a step on average, rounded up."""
    dense = min(refreshes, steps)
    return ceil((dense * total_tokens + (steps - dense) * active_tokens) / steps)


@dataclass(frozen=True, slots=True)
class MeasuredSetting:
    """What a halo, refreshes and a step cache give on a model's calibration cases: `scripts/bench/fidelity.py`.

    Attributes:
        steps: of the edits that were measured.
        psnr_db: that nine edits of ten reach inside the mask, against the dense edit of the same seed.
        cost: tokens that an edit computes, as a share of the dense edit's, on average.
        step_cache: of the edits that were measured.

    Raises:
        ValueError: a value outside its limits.
    """

    halo: int
    refreshes: int
    steps: int
    psnr_db: float
    cost: float
    step_cache: int = DEFAULT_STEP_CACHE

    def __post_init__(self) -> None:
        counts = (self.halo, self.refreshes, self.steps, self.step_cache)
        if any(type(count) is not int for count in counts):
            raise ValueError(f"{self} was not measured: halo, refreshes, steps and step_cache are whole numbers")
        if (
            min(self.halo, self.refreshes) < 0
            or min(self.steps, self.step_cache) < 1
            or self.step_cache > MAX_STEP_CACHE
            or not 0 <= self.psnr_db < inf
            or not 0 < self.cost < inf
        ):
            raise ValueError(f"{self} was not measured")

    def refreshes_of(self, steps: int) -> int:
        """As many of an edit of so many steps, rounded up."""
        return min(steps, ceil(self.refreshes * steps / self.steps))

    def step_cache_of(self, steps: int) -> int:
        """Of an edit of so many steps: where they are fewer, and so farther apart, every one is computed."""
        return self.step_cache if steps >= self.steps else DEFAULT_STEP_CACHE

    def settings_of(self, steps: int) -> dict[str, int]:
        """What an edit of so many steps asks for: halo, refreshes and step_cache."""
        return {"halo": self.halo, "refreshes": self.refreshes_of(steps), "step_cache": self.step_cache_of(steps)}


def cheapest(measured: Iterable[MeasuredSetting], psnr_db: float) -> MeasuredSetting | None:
    """The cheapest setting that holds the bound; None where only the dense edit does."""
    return min((one for one in measured if one.psnr_db >= psnr_db), key=lambda one: one.cost, default=None)
