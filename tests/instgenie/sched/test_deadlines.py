"""When edits are given up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie.sched.deadlines import Deadlines
from instgenie.sched.pace import Pace
from instgenie.sched.tracked_edit import TrackedEdit
from tests.instgenie.sched.tasks import an_edit


def an_edit_until(deadline: float | None, edit_id: str = "a", steps: int = 4) -> TrackedEdit:
    return TrackedEdit(an_edit(edit_id, deadline=deadline, steps=steps))


def at_one_second_a_step() -> Pace:
    pace = Pace()
    pace.observe(10, 1.0)
    return pace


def test_before_the_first_step_only_the_deadline_itself_counts() -> None:
    deadlines = Deadlines(Pace())
    deadlines.watch(an_edit_until(9.0))
    deadlines.watch(an_edit_until(None, "b"))
    assert deadlines.next() == 9.0
    assert deadlines.due(8.9) == []
    assert deadlines.due(9.0) == ["a"]
    assert deadlines.next() is None


def test_an_edit_is_due_when_even_alone_it_could_not_be_done() -> None:
    deadlines = Deadlines(at_one_second_a_step())
    edit = an_edit_until(9.0)
    deadlines.watch(edit)
    assert deadlines.next() == pytest.approx(5.0)
    assert deadlines.due(4.9) == []
    edit.taken = 2
    assert deadlines.next() == pytest.approx(7.0)
    assert deadlines.due(5.1) == []
    assert deadlines.due(7.1) == ["a"]


def test_an_edit_that_computes_more_than_was_thought_is_due_earlier() -> None:
    deadlines = Deadlines(at_one_second_a_step())
    edit = an_edit_until(30.0)
    deadlines.watch(edit)
    edit.route = "dense"  # 164 rows with what is fixed, in place of 74
    deadlines.watch(edit)
    assert deadlines.next() == pytest.approx(30 - 4 * 164 / 74)
    assert deadlines.due(25.9) == ["a"]


def test_a_slower_pace_brings_all_forward() -> None:
    pace = at_one_second_a_step()
    deadlines = Deadlines(pace)
    deadlines.watch(an_edit_until(100.0))
    for _ in range(16):
        pace.observe(10, 20.0)
    assert deadlines.next() == pytest.approx(20.0)


@given(
    st.lists(
        st.tuples(st.sampled_from(["new", "step", "pace", "dense", "gone"]), st.integers(0, 9), st.floats(0.01, 40)),
        max_size=60,
    )
)
def test_due_and_next_are_what_looking_at_each_edit_says(moves: list[tuple[str, int, float]]) -> None:
    pace = Pace()
    deadlines = Deadlines(pace)
    edits: dict[str, TrackedEdit] = {}
    now = 0.0
    for kind, number, value in moves:
        name = str(number)
        if kind == "new" and name not in edits:
            edits[name] = an_edit_until(now + 10 * value, name, steps=10)
            deadlines.watch(edits[name])
        elif kind == "pace":
            pace.observe(10, value)
        elif name in edits:
            if kind == "step" and edits[name].steps_left:
                edits[name].taken += 1
            elif kind == "dense":
                edits[name].route = "dense"
                deadlines.watch(edits[name])
            elif kind == "gone":
                deadlines.forget(name)
                del edits[name]
        latest = {
            name: (edit.task.deadline or 0) - pace.rows_in_all(edit.steps_left, edit.rows) * pace.seconds_per_row
            for name, edit in edits.items()
        }
        assert deadlines.next() == min(latest.values(), default=None)
        now += value / 10
        due = deadlines.due(now)
        assert sorted(due) == sorted(name for name, at in latest.items() if at <= now)
        for name in due:
            del edits[name]
