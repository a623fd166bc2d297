"""Who is admitted next."""

from __future__ import annotations

from instgenie.sched.fairness import Turn
from instgenie.sched.ready_queue import ReadyQueue


def filled(*edits: tuple[str, str, float, float]) -> ReadyQueue:
    """Edits with tenant, order and turn."""
    queue = ReadyQueue()
    for edit in edits:
        queue.put(*edit)
    return queue


def all_of(queue: ReadyQueue) -> list[Turn]:
    return [queue.take() for _ in iter(queue.first, None)]


def test_the_earliest_turn_goes_first_and_of_equal_ones_the_first_that_came() -> None:
    queue = filled(("a", "ann", 0, 20), ("b", "bob", 0, 10), ("c", "cat", 0, 10))
    assert all_of(queue) == [("b", 10), ("c", 10), ("a", 20)]
    assert queue.first() is None


def test_a_tenants_best_takes_its_earliest_turn() -> None:
    queue = filled(("usual", "ann", 5, 10), ("urgent", "ann", -5, 30), ("b", "bob", 0, 20))
    assert all_of(queue) == [("urgent", 10), ("b", 20), ("usual", 30)]


def test_who_goes_away_gives_its_tenants_latest_turn_up() -> None:
    queue = filled(("usual", "ann", 5, 10), ("urgent", "ann", -5, 30), ("b", "bob", 0, 20))
    queue.remove("usual")
    queue.remove("unknown")
    assert all_of(queue) == [("urgent", 10), ("b", 20)]


def test_who_comes_back_with_its_turn_is_before_later_ones() -> None:
    queue = filled(("a", "ann", 0, 10), ("b", "bob", 0, 20))
    turn = queue.take()
    queue.put("a", "ann", 0, turn.at)
    assert all_of(queue) == [("a", 10), ("b", 20)]
