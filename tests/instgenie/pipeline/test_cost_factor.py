"""A factor follows what is observed, and is not fooled by a single odd one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie.pipeline.cost_factor import CostFactor

ratios = st.floats(1e-6, 1e6)


@given(ratios, st.floats(0.1, 10))
def test_one_odd_observation_changes_nothing(odd: float, usual: float) -> None:
    factor = CostFactor(16, usual)
    for ratio in (usual, odd, usual, usual):
        factor.observe(ratio)
    assert factor.value == pytest.approx(usual)


@given(st.floats(1 / 16, 16), st.floats(1 / 16, 16))
def test_what_stays_is_followed(before: float, now: float) -> None:
    factor = CostFactor(16, before)
    for _ in range(30):
        factor.observe(now)
    assert factor.value == pytest.approx(now, rel=0.01)


def test_it_is_followed_step_by_step() -> None:
    factor = CostFactor(16)
    values = []
    for _ in range(8):
        factor.observe(4)
        values.append(factor.value)
    assert values == sorted(values)
    assert values[0] == 1
    assert values[1] < 2
    assert values[-1] > 3


@given(st.lists(ratios, max_size=20))
def test_limits(observed: list[float]) -> None:
    factor = CostFactor(16)
    for ratio in observed:
        factor.observe(ratio)
        factor.nudge(1.0)
        assert 1 / 16.001 < factor.value < 16.001


def test_without_a_value_the_first_observation_decides() -> None:
    factor = CostFactor(1000, None)
    assert factor.value == 1
    factor.observe(50)
    assert factor.value == pytest.approx(50)
    factor.observe(50)
    factor.observe(1)
    factor.observe(50)
    assert factor.value == pytest.approx(50)
