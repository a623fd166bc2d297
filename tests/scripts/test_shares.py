"""Shares of cases with their intervals."""

from __future__ import annotations

import pytest

from builtin_recipe.shares import figures_in_words, share_figures, wilson_interval


# The first three are of Newcombe (1998), table I.
@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (29, 29, 0.8830, 1.0)],
)
def test_intervals_are_wilsons(hits: int, count: int, low: float, high: float) -> None:
    assert wilson_interval(hits, count) == pytest.approx((low, high), abs=1e-4)


def test_more_cases_make_a_narrower_interval_round_the_share() -> None:
    wide, narrow = (wilson_interval(40 * times, 64 * times) for times in (1, 3))
    assert wide[0] < narrow[0] < 0.625 < narrow[1] < wide[1]


def test_a_share_is_printed_with_its_interval() -> None:
    row = share_figures("top1", [True] * 40 + [False] * 24) | {"n": 64}
    assert figures_in_words(row) == "top1 0.625 [0.503, 0.733]  n 64"
