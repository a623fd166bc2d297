"""Priority with ageing: higher ones first, nobody starves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from instgenie_server.jobs.queue_order import AGEING_SECONDS, order_key

priorities = st.integers(-10, 10)
times = st.floats(0, 1e6)


@given(priorities, priorities, times)
def test_of_the_same_age_the_higher_priority_goes_first(first: int, second: int, created_at: float) -> None:
    assert (order_key("a", first, created_at) < order_key("b", second, created_at)) == (first >= second)


@given(priorities, times, times)
def test_of_the_same_priority_the_older_goes_first(priority: int, first: float, second: float) -> None:
    if first + 1e-3 < second:
        assert order_key("b", priority, first) < order_key("a", priority, second)


@given(priorities, times, priorities, times)
def test_a_job_is_overtaken_by_those_of_a_bounded_time_only(
    priority: int, created_at: float, other_priority: int, other_created_at: float
) -> None:
    if order_key("b", other_priority, other_created_at) < order_key("a", priority, created_at):
        advantage_seconds = AGEING_SECONDS * max(0, other_priority - priority)
        assert other_created_at <= created_at + advantage_seconds + 1e-3


@given(st.lists(st.integers(0, 9), min_size=200, max_size=200))
def test_nobody_starves_under_constant_load(arriving: list[int]) -> None:
    """One job arrives each second and one leaves: the lowly one of the start goes within 9 levels' worth of time."""
    waiting = [order_key("lowly", 0, 0.0), order_key("other", 9, 0.0)]
    left_at = None
    for second, priority in enumerate(arriving + 200 * [9], start=1):
        waiting.append(order_key(f"job {second}", priority, float(second)))
        waiting.sort()
        if waiting.pop(0)[-1] == "lowly":
            left_at = second
            break
    assert left_at is not None
    assert left_at <= 9 * AGEING_SECONDS + 2
