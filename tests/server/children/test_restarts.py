"""Waits between the starts of a process that dies."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from instgenie_server.processes.restarts import FIRST_SECONDS, LONGEST_SECONDS, STEADY_SECONDS, Restarts


def test_they_double_up_to_a_minute() -> None:
    restarts = Restarts(lambda: 1.0)
    waits = [restarts.seconds_after(0) for _ in range(12)]
    assert waits[:3] == [FIRST_SECONDS, 2 * FIRST_SECONDS, 4 * FIRST_SECONDS]
    assert waits[-1] == LONGEST_SECONDS
    assert waits == sorted(waits)


def test_a_process_that_was_well_starts_over() -> None:
    restarts = Restarts(lambda: 1.0, failures=8)
    assert restarts.seconds_after(STEADY_SECONDS) == FIRST_SECONDS
    assert restarts.failures == 1


@settings(deadline=None)  # a busy machine is no failure
@given(draw=st.floats(0, 1), failures=st.integers(0, 10**6), lived=st.floats(0, 10**9))
def test_chance_takes_half_of_it_at_most(draw: float, failures: int, lived: float) -> None:
    wait = Restarts(lambda: draw, failures=failures).seconds_after(lived)
    longest = Restarts(lambda: 1.0, failures=failures).seconds_after(lived)
    assert longest / 2 <= wait <= longest <= LONGEST_SECONDS
