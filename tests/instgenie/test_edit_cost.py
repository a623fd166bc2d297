"""What an edit is expected to cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie.edit_cost import OVERHEAD_TOKENS, EditCost, EditWork, edit_work


def test_work_of_an_edit() -> None:
    warm = edit_work(steps=20, passes=2, tokens_active=50, tokens_total=500, is_cold=False)
    assert warm == EditWork(forwards=40, tokens=2000)
    cold = edit_work(steps=20, passes=2, tokens_active=50, tokens_total=500, is_cold=True)
    assert cold == EditWork(forwards=60, tokens=12_000)


@given(st.floats(1e-6, 1e-1), st.floats(1e-6, 1e-1), st.lists(st.integers(1, 200), min_size=60, max_size=60))
def test_prediction_follows_a_steady_machine(start: float, true: float, steps: list[int]) -> None:
    cost = EditCost(start)
    for count in steps:
        work = edit_work(steps=count, passes=2, tokens_active=count, tokens_total=300, is_cold=count % 2 == 0)
        cost.observe(work, true * (work.tokens + OVERHEAD_TOKENS * work.forwards))
    work = EditWork(10, 1000)
    expected = true * (1000 + 10 * OVERHEAD_TOKENS)
    assert cost.predict(work) == pytest.approx(expected, rel=1e-4, abs=abs(start) * 0.01)


def test_first_observation_replaces_the_guess() -> None:
    for seconds_per_token in (1e-6, 1e-1):
        cost = EditCost()
        work = EditWork(4, 1000)
        cost.observe(work, seconds_per_token * (1000 + 4 * OVERHEAD_TOKENS))
        assert cost.predict(work) == pytest.approx(seconds_per_token * (1000 + 4 * OVERHEAD_TOKENS))


def test_more_work_costs_more() -> None:
    cost = EditCost(1e-4)
    assert cost.predict(EditWork(2, 100)) < cost.predict(EditWork(3, 100)) < cost.predict(EditWork(3, 200))


def test_one_odd_edit_moves_the_prediction_a_little() -> None:
    cost = EditCost(1e-4)
    work = EditWork(10, 1000)
    before = cost.predict(work)
    cost.observe(work, 10 * before)
    assert before < cost.predict(work) < 3 * before
