"""Fits recover what costs were made of, and say how good they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie.pipeline.cost import BlockFit, SegmentShape
from instgenie.pipeline.cost_fit import fit_block, fit_load, nonnegative_fit, r_squared

SHAPES = [
    [SegmentShape(16, round(share * total), total)] * batch
    for total in (144, 576)
    for share in (0.1, 0.35, 0.6, 1.0)
    for batch in (1, 2)
]
amounts = st.floats(1e-3, 10) | st.just(0.0)


@given(st.floats(0.01, 5), st.floats(1e-3, 0.1), st.floats(1e-6, 1e-4), st.floats(1e-4, 1e-2))
def test_exact_costs_are_recovered(base_ms: float, row_ms: float, pair_ms: float, context_ms: float) -> None:
    true = BlockFit(base_ms, row_ms, pair_ms, context_ms, 1.0, 0)
    fit = fit_block([(shapes, true.predict(shapes)) for shapes in SHAPES])
    assert (fit.base_ms, fit.row_ms) == pytest.approx((base_ms, row_ms), rel=1e-3)
    assert (fit.pair_ms, fit.context_ms) == pytest.approx((pair_ms, context_ms), rel=1e-3)
    assert fit.r_squared == pytest.approx(1)
    assert fit.points == len(SHAPES)


def test_noisy_costs_are_foretold_where_nothing_was_measured() -> None:
    true = BlockFit(0.6, 0.008, 7e-6, 6e-4, 1.0, 0)
    noise = np.random.default_rng(1).normal(1, 0.03, len(SHAPES))
    fit = fit_block([(s, true.predict(s) * n) for s, n in zip(SHAPES, noise.tolist(), strict=True)])
    assert 0.98 < fit.r_squared < 1
    for share in (0.05, 0.2, 0.5, 0.8):
        shapes = [SegmentShape(16, round(share * 576), 576)] * 2
        assert fit.predict(shapes) == pytest.approx(true.predict(shapes), rel=0.1)


def test_times_that_have_nothing_to_do_with_shapes_fit_badly() -> None:
    times = np.random.default_rng(2).uniform(1, 100, len(SHAPES)).tolist()
    assert fit_block(list(zip(SHAPES, times, strict=True))).r_squared < 0.7


@pytest.mark.parametrize("points", [1, 2, 3, 4, 5])
def test_few_points_give_few_coefficients(points: int) -> None:
    true = BlockFit(6.0, 0.04, 7e-6, 6e-4, 1.0, 0)
    few = [SHAPES[number] for number in (8, 14, 0, 10, 4)][:points]
    fit = fit_block([(shapes, true.predict(shapes)) for shapes in few])
    used = [fit.row_ms, fit.base_ms, fit.pair_ms, fit.context_ms]
    assert used[0] > 0
    assert not any(used[max(1, points - 1) :])
    assert (fit.r_squared > 0.9) == (points > 2)


def test_a_cost_below_zero_is_no_cost() -> None:
    falling = [([SegmentShape(0, n, n)], 10.0 - n / 100) for n in (100, 200, 400, 800)]
    fit = fit_block(falling)
    assert fit.row_ms == fit.pair_ms == fit.context_ms == 0
    assert 2 < fit.base_ms < 10


@given(st.lists(st.tuples(amounts, amounts, amounts, st.floats(0.1, 10)), min_size=1, max_size=8))
def test_no_other_coefficients_from_0_up_are_better(rows: list[tuple[float, float, float, float]]) -> None:
    columns, values = np.array([row[:3] for row in rows]), np.array([row[3] for row in rows])
    found = nonnegative_fit(columns, values)

    def error(coefficients: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
        return float((((columns @ coefficients) / values - 1) ** 2).sum())

    assert (found >= 0).all()
    for column in range(3):
        for change in (-1e-3, 1e-3):
            other = found.copy()
            other[column] = max(0.0, other[column] + change)
            assert error(found) <= error(other) + 1e-9


def test_loads() -> None:
    fit = fit_load([(n, 0.05 + n * 4e-8) for n in (100_000, 1_000_000, 10_000_000)])
    assert (fit.base_ms, fit.byte_ms) == pytest.approx((0.05, 4e-8))
    assert fit.is_measured
    assert fit.predict(0) == 0


def test_r_squared() -> None:
    values = np.array([1.0, 2.0, 3.0])
    assert r_squared(values, values) == 1
    assert r_squared(values, np.full(3, 2.0)) == 0
    assert r_squared(values, values[::-1]) < 0
    assert r_squared(np.ones(3), np.ones(3)) == 0  # nothing to explain
