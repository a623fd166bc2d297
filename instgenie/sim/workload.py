"""Requests drawn from a seed: when they come, which template, which mask. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instgenie.sim.arrivals import ArrivalsName, bursty_times, poisson_times
from instgenie.sim.mask_ratios import MixName, draw_mask_ratios
from instgenie.sim.trace import SimRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is asked for, whatever its rate.

    Attributes:
        mix: of masks.
        templates: that there are.
        zipf: exponent of their popularity: the one of rank r is asked for in proportion to r^-zipf. 0: all alike.
        steps, passes: of each edit.

    Raises:
        ValueError: no templates, or a negative exponent.
    """

    mix: MixName = "katz"
    templates: int = 970
    zipf: float = 1.1
    arrivals: ArrivalsName = "poisson"
    steps: int = 20
    passes: int = 1

    def __post_init__(self) -> None:
        if self.templates < 1 or self.zipf < 0:
            raise ValueError(f"{self.templates} templates of popularity r^-{self.zipf} cannot be drawn from")

    def draw(self, count: int, per_second: float, seed: int) -> list[SimRequest]:
        """So many requests, by their times. The same seed draws the same ones, at another rate at other times alone."""
        times_rng, templates_rng, masks_rng = (np.random.default_rng([seed, part]) for part in range(3))
        draw_times = poisson_times if self.arrivals == "poisson" else bursty_times
        times = draw_times(count, times_rng) / per_second
        popularity = np.arange(1, self.templates + 1) ** -self.zipf
        ranks = templates_rng.choice(self.templates, count, p=popularity / popularity.sum())
        ratios = draw_mask_ratios(self.mix, count, masks_rng)
        return [
            SimRequest(seconds, template_name(rank), ratio, self.steps, self.passes)
            for seconds, rank, ratio in zip(times.tolist(), ranks.tolist(), ratios.tolist(), strict=True)
        ]


def template_name(rank: int) -> str:
    """Of the template of that popularity, from 0."""
    return f"t{rank}"
