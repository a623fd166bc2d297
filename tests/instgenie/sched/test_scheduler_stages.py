"""Stage work between steps: how much of it, and that it keeps batches full."""

from __future__ import annotations

import itertools
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie.sched.scheduler import Scheduler
from instgenie.sched.step_batch import Ended, StageItem, StepBatch, StepResult
from tests.instgenie.sched.tasks import Desk, a_lane, an_edit, items_of


def saturated(desk: Desk, num_steps: int, **changes: float) -> list[StepBatch]:
    """So many steps while edits of four steps wait all the time."""
    numbers = itertools.count(len(desk.batches) * 100)
    steps = []
    for _ in range(num_steps):
        desk.submit(*(f"edit {next(numbers)}" for _ in range(8 - min(8, desk.scheduler.counts().waiting))), **changes)
        steps.append(desk.step())
    return steps


def gaps(batches: list[StepBatch]) -> list[int]:
    """How many items are done before each step."""
    counts = [0]
    for batch in batches:
        counts[-1] += batch.stage is not None
        if batch.has_step:
            counts.append(0)
    return counts[:-1]


def test_a_batch_has_either_an_item_or_a_step() -> None:
    desk = Desk(item_seconds=0.05)
    saturated(desk, 40)
    assert all((batch.stage is None) == batch.has_step for batch in desk.batches)
    assert not any(batch.rows for batch in desk.batches if batch.stage)


def test_short_edits_fill_the_batch_and_keep_it_full_where_items_are_cheap() -> None:
    desk = Desk(item_seconds=0.05, edits=8, encode_ahead=4)
    sizes = [len(batch.edits) for batch in saturated(desk, 60)]
    assert mean(sizes) > 6
    assert set(sizes[8:]) == {8}


@pytest.mark.parametrize(("item_seconds", "items"), [(1.5, 1), (0.5, 1), (0.25, 2), (0.125, 4)])
def test_items_take_their_share_of_a_step_but_one_always_goes(item_seconds: float, items: int) -> None:
    desk = Desk(item_seconds=item_seconds, edits=16)
    saturated(desk, 60)
    assert set(gaps(desk.batches)[20:]) == {items}


def test_a_larger_share_has_more_items_between_two_steps() -> None:
    desk = Desk(item_seconds=0.25, edits=16, stage_share=1.0)
    saturated(desk, 60)
    assert set(gaps(desk.batches)[20:]) == {4}


def test_who_comes_first_does_not_wait_until_others_are_encoded() -> None:
    desk = Desk(item_seconds=0.05)
    desk.submit("a", "b", "c", "d")
    assert [batch.edits for batch in desk.turns(2)] == [(), ("a",)]  # what items and steps take is not known yet
    assert items_of(desk.turns(4)) == ["encode b", "encode c", "encode d"]
    assert desk.batches[-1].edits == ("a", "b", "c", "d")


def test_a_kind_of_item_waits_for_the_step_until_it_is_known_what_it_takes() -> None:
    desk = Desk(item_seconds=0.05)
    desk.submit("a", steps=9)
    desk.step()
    desk.scheduler.want_preview("a")
    desk.submit("b", steps=9)
    desk.steps(2)
    assert items_of(desk.batches) == ["encode a", "encode b", "preview a"]
    assert gaps(desk.batches) == [1, 1, 1]
    desk.scheduler.want_preview("a")
    desk.submit("c", steps=9)
    desk.step()
    assert items_of(desk.batches[-3:]) == ["encode c", "preview a"]
    assert gaps(desk.batches)[-1] == 2


def test_nothing_bounds_items_while_there_is_no_step_to_take() -> None:
    desk = Desk(item_seconds=30.0)
    desk.submit("a", steps=4)
    desk.submit("b", steps=3)
    desk.submit("c", steps=2)
    desk.steps(4)
    assert desk.scheduler.counts().finishing == 3
    assert items_of(desk.turns(3)) == ["decode a", "decode b", "decode c"]


def test_edits_whose_templates_are_looked_up_do_not_bound_items() -> None:
    scheduler = Scheduler()
    for name in "ab":
        scheduler.submit(an_edit(name))
    batches = [scheduler.schedule(now) for now in (0.0, 100.0, 200.0)]
    assert items_of(batches) == ["encode a", "encode b"]
    assert batches[-1].is_empty


def test_a_warm_up_is_a_step_that_items_leave_time_for() -> None:
    desk = Desk(rows=100)
    desk.scheduler.submit_lane(a_lane("t", steps=3))
    desk.step()
    desk.submit("a", "b", batch_key="other")
    desk.scheduler.submit_lane(a_lane("u", steps=3))
    assert set(gaps([*desk.batches, *desk.turns(12)])) <= {0, 1}


@given(
    steps=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    item_seconds=st.sampled_from([2.0, 0.5, 0.25, 0.1]),
    encode_ahead=st.integers(1, 8),
    edits=st.integers(1, 8),
)
def test_the_next_decoding_waits_for_one_further_step_because_of_encodings_at_most(
    steps: list[int], item_seconds: float, encode_ahead: int, edits: int
) -> None:
    desk = Desk(item_seconds=item_seconds, encode_ahead=encode_ahead, edits=edits)
    left = {f"edit {number}": steps[number % len(steps)] for number in range(40)}
    for name, count in left.items():
        desk.submit(name, steps=count)
    finished: list[str] = []
    decoded = False  # since the last step
    waited = 0  # steps before which nothing was decoded
    while not (batch := desk.turn()).is_empty:
        if batch.stage and batch.stage.kind == "decode":
            assert batch.stage.edit == finished.pop(0)
            decoded, waited = True, 0
        if batch.has_step:
            waited += bool(finished) and not decoded
            assert waited <= 1
            decoded = False
        for name in batch.edits:
            left[name] -= 1
            if not left[name]:
                finished.append(name)
    assert not finished
    assert not any(left.values())


def test_what_ended_is_told_with_an_item_as_with_a_step() -> None:
    desk = Desk()
    desk.submit("a", steps=9)
    desk.step()
    desk.submit("b", "c", "d")
    desk.scheduler.cancel("b")
    assert desk.turn() == StepBatch(stage=StageItem("encode", "c"), ended=(Ended("b", "cancelled"),))
    desk.scheduler.cancel("d")
    assert desk.turn() == StepBatch(edits=("a", "c"), rows=20, ended=(Ended("d", "cancelled"),))


def test_an_item_is_done_but_a_step_is_still_to_be_answered() -> None:
    scheduler = Scheduler()
    scheduler.submit(an_edit("a"))
    assert scheduler.schedule(0.0).stage
    with pytest.raises(AssertionError, match="no batch"):
        scheduler.update(StepResult())


def test_static_batches_are_filled_while_the_one_before_runs() -> None:
    desk = Desk(item_seconds=0.05, joins="empty", edits=8, encode_ahead=8)
    sizes = [len(batch.edits) for batch in saturated(desk, 60)]
    assert sizes[4:] == [8] * 56
    assert sizes[:4] == [1] * 4
