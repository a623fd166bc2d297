from __future__ import annotations

from instgenie_server.processes.reminders import Reminders


def test_the_intervals_grow_up_to_the_longest() -> None:
    reminders = Reminders(first_seconds=10, longest_seconds=50)
    due = [seconds for seconds in range(0, 240, 2) if reminders.is_due(seconds)]
    assert due == [0, 10, 30, 70, 120, 170, 220]


def test_one_that_is_late_counts_from_then() -> None:
    reminders = Reminders(first_seconds=10, longest_seconds=50)
    assert [reminders.is_due(seconds) for seconds in (0, 25, 44, 45)] == [True, True, False, True]
