"""Shares of cases and how well they are known."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

NORMAL_95 = 1.959964  # a normal variable is this many deviations off in 5 % of the cases


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share of which `hits` of `count` independent cases were seen (Wilson, 1927)."""
    share, spread = hits / count, NORMAL_95**2 / count
    middle = (share + spread / 2) / (1 + spread)
    reach = sqrt(spread * share * (1 - share) + spread**2 / 4) / (1 + spread)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def share_figures(name: str, hits: Sequence[bool]) -> dict[str, float]:
    """The share of hits and the ends of its interval, as figures of a row."""
    low, high = wilson_interval(sum(hits), len(hits))
    return {name: sum(hits) / len(hits), f"{name}_low": low, f"{name}_high": high}


def figures_in_words(figures: dict[str, float]) -> str:
    """A row for the eye: intervals in brackets after their share."""
    words = []
    for key, value in figures.items():
        if f"{key}_low" in figures:
            words.append(f"{key} {value:.3g} [{figures[f'{key}_low']:.3g}, {figures[f'{key}_high']:.3g}]")
        elif not key.endswith(("_low", "_high")):
            words.append(f"{key} {value:.3g}")
    return "  ".join(words)
