"""Who goes first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from instgenie.work_queue import AGEING_SECONDS, WorkQueue


def all_of(queue: WorkQueue[str]) -> list[str]:
    return [item for _ in range(len(queue)) if (item := queue.take()) is not None]


def test_of_equals_the_first_that_came_goes_first() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for item in "abc":
        queue.put(item, now=1.0)
    assert all_of(queue) == ["a", "b", "c"]
    assert queue.take() is None


def test_a_larger_priority_goes_first() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.put("usual", now=1.0)
    queue.put("patient", now=1.0, priority=-1)
    queue.put("urgent", now=2.0, priority=1)
    assert all_of(queue) == ["urgent", "usual", "patient"]


@given(st.lists(st.tuples(st.floats(0, 1e4), st.integers(-100, 100)), max_size=30))
def test_nothing_is_overtaken_by_what_came_much_later(items: list[tuple[float, int]]) -> None:
    queue: WorkQueue[tuple[float, int]] = WorkQueue()
    for item in items:
        queue.put(item, *item)
    order = [taken for _ in items if (taken := queue.take()) is not None]
    assert sorted(order) == sorted(items)
    for place, (came, priority) in enumerate(order):
        for earlier_came, earlier_priority in order[:place]:  # those that went before
            assert earlier_came - came <= AGEING_SECONDS * (earlier_priority - priority) + 1e-6
