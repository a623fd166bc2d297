"""When an edit computes all tokens, and which setting holds a bound."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie.fidelity import MeasuredSetting, cheapest, default_refreshes, mean_tokens, refresh_steps


@pytest.mark.parametrize(("steps", "expected"), [(1, 0), (4, 0), (8, 0), (10, 1), (20, 1), (28, 1), (50, 3)])
def test_default_is_one_for_every_20_steps(steps: int, expected: int) -> None:
    assert default_refreshes(steps) == expected


@pytest.mark.parametrize(
    ("refreshes", "steps", "expected"),
    [
        (0, 20, ()),
        (1, 20, (0,)),
        (2, 20, (0, 7)),
        (3, 20, (0, 3, 10)),
        (4, 20, (0, 2, 7, 12)),
        (3, 4, (0, 1, 2)),
        (4, 4, (0, 1, 2, 3)),
        (9, 4, (0, 1, 2, 3)),
    ],
)
def test_refreshes_are_dense_early_and_sparse_late(refreshes: int, steps: int, expected: tuple[int, ...]) -> None:
    assert refresh_steps(refreshes, steps) == expected


@given(steps=st.integers(1, 1000), refreshes=st.integers(0, 1100))
def test_refreshes_are_as_many_as_asked_for(steps: int, refreshes: int) -> None:
    chosen = refresh_steps(refreshes, steps)
    assert len(chosen) == min(refreshes, steps)
    assert all(first < second for first, second in pairwise(chosen))
    assert not chosen or (chosen[0], chosen[-1] < steps) == (0, True)


@given(st.integers(1, 100), st.integers(1, 500), st.integers(0, 500), st.integers(0, 50))
def test_mean_tokens_lie_between_masked_and_dense(steps: int, active: int, others: int, refreshes: int) -> None:
    total = active + others
    mean = mean_tokens(active, total, refreshes, steps)
    assert active <= mean <= total
    assert mean <= mean_tokens(active, total, refreshes + 1, steps)
    assert mean_tokens(active, total, 0, steps) == active
    assert mean_tokens(active, total, steps, steps) == total


MEASURED = (
    MeasuredSetting(0, 0, 20, 26.0, 0.2),
    MeasuredSetting(1, 0, 20, 31.0, 0.3),
    MeasuredSetting(1, 1, 20, 38.0, 0.35),
    MeasuredSetting(3, 0, 20, 38.0, 0.5),
)


@pytest.mark.parametrize(("psnr_db", "chosen"), [(20, 0), (26, 0), (27, 1), (31.5, 2), (38, 2), (38.1, None)])
def test_cheapest_that_holds_the_bound(psnr_db: float, chosen: int | None) -> None:
    assert cheapest(reversed(MEASURED), psnr_db) == (None if chosen is None else MEASURED[chosen])


@pytest.mark.parametrize(("steps", "expected"), [(20, 1), (10, 1), (1, 1), (21, 2), (50, 3)])
def test_edits_of_other_steps_have_at_least_as_large_a_share_of_refreshes(steps: int, expected: int) -> None:
    assert MEASURED[2].refreshes_of(steps) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"halo": -1},
        {"halo": 1.5},
        {"refreshes": -1},
        {"steps": 0},
        {"step_cache": 0},
        {"step_cache": 11},
        {"step_cache": 2.0},
        {"psnr_db": float("nan")},
        {"cost": 0.0},
        {"cost": float("inf")},
    ],
)
def test_what_cannot_be_measured_is_refused(wrong: dict[str, float]) -> None:
    values = {"halo": 1, "refreshes": 1, "steps": 20, "psnr_db": 35.0, "cost": 0.3}
    with pytest.raises(ValueError, match="was not measured"):
        MeasuredSetting(**(values | wrong))  # type: ignore[arg-type]
