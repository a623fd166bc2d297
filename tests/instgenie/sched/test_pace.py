"""How fast a step is at best."""

from __future__ import annotations

import pytest

from instgenie.sched.pace import Pace


def seconds_of(pace: Pace, rows: int, steps: int = 1) -> float:
    return pace.rows_in_all(steps, rows) * pace.seconds_per_row


def test_nothing_is_known_before_the_first_step() -> None:
    assert Pace().seconds_per_row == 0.0


def test_the_fastest_of_the_last_steps_counts_by_rows() -> None:
    pace = Pace()
    pace.observe(936, 1.0)
    pace.observe(136, 0.1)  # twice as fast
    assert seconds_of(pace, 936) == pytest.approx(0.5)
    assert seconds_of(pace, 0, steps=2) == pytest.approx(0.064)


def test_what_was_fast_is_forgotten_after_sixteen_steps() -> None:
    pace = Pace()
    pace.observe(936, 0.1)
    for _ in range(15):
        pace.observe(936, 1.0)
    assert seconds_of(pace, 936) == pytest.approx(0.1)
    pace.observe(936, 1.0)
    assert seconds_of(pace, 936) == pytest.approx(1.0)


def test_a_little_slower_is_not_noticed_and_a_little_faster_is() -> None:
    pace = Pace()
    pace.observe(936, 1.0)
    for _ in range(16):
        pace.observe(936, 1.09)
    assert seconds_of(pace, 936) == pytest.approx(1.0)
    pace.observe(936, 0.99)
    assert seconds_of(pace, 936) == pytest.approx(0.99)
    for _ in range(16):
        pace.observe(936, 1.1)
    assert seconds_of(pace, 936) == pytest.approx(1.1)


def test_a_step_without_a_time_is_no_observation() -> None:
    pace = Pace()
    pace.observe(936, 1.0)
    pace.observe(936, 0.0)
    assert seconds_of(pace, 936) == pytest.approx(1.0)
