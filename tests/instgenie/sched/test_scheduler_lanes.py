"""Templates that are recorded beside edits, and ahead of them."""

from __future__ import annotations

import pytest

from instgenie.sched.edit_book import Counts
from instgenie.sched.scheduler import Scheduler
from instgenie.sched.step_batch import LaneSteps, Opened, StageItem, StepBatch, StepResult
from tests.instgenie.sched.tasks import Desk, a_lane, an_edit, encoded, steps_of


def test_a_cold_edit_rides_with_its_lane_step_by_step() -> None:
    desk = Desk()
    desk.submit_cold("a", lane=a_lane("t"))
    batches = desk.turns(5)[1:]
    assert batches == [StepBatch(edits=("a",), lanes=(LaneSteps("t", (step,)),), rows=110) for step in range(4)]
    assert desk.scheduler.counts() == Counts(finishing=1, lanes=1)
    desk.scheduler.committed("t")
    desk.turns(2)
    assert desk.scheduler.counts() == Counts()


def test_an_edit_joins_the_lane_that_runs_and_reads_what_it_kept() -> None:
    desk = Desk()
    desk.submit_cold("a", lane=a_lane("t"))
    desk.turns(2)
    desk.submit_cold("b", lane=None)
    assert [batch.edits for batch in desk.steps(4)] == [*[("a", "b")] * 3, ("b",)]
    assert desk.recorded("t") == [0, 1, 2, 3]


def test_two_that_find_no_template_at_the_same_time_share_a_lane() -> None:
    desk = Desk(item_seconds=0.1)
    desk.submit("other", steps=9)
    desk.step()
    desk.submit_cold("a", "b", lane=a_lane("t", keeps_steps=False))
    assert encoded(desk.turns(2)) == ["a", "b"]
    assert [batch.edits for batch in desk.steps(5)] == [*[("other", "a", "b")] * 4, ("other",)]
    assert desk.recorded("t") == [0, 1, 2, 3]


def test_an_edit_that_comes_too_late_waits_without_a_slot_until_the_template_is_complete() -> None:
    desk = Desk(edits=2)
    desk.submit_cold("a", lane=a_lane("t", keeps_steps=False))
    desk.turns(2)
    desk.submit_cold("late", lane=None)
    desk.submit("other", steps=4)
    desk.turns(3)
    assert desk.scheduler.counts() == Counts(running=1, parked=1, ready=1, lanes=1)
    assert [batch.edits for batch in desk.turns(2)] == [("a", "other"), ("a", "other")]
    assert desk.scheduler.counts() == Counts(running=1, parked=1, finishing=1, lanes=1)
    desk.scheduler.committed("t")
    assert desk.step().edits == ("other", "late")
    assert desk.recorded("t") == [0, 1, 2, 3]


def test_edits_that_may_not_ride_have_the_lane_recorded_as_fast_as_rows_allow() -> None:
    desk = Desk(rows=210)
    desk.submit_cold("a", lane=a_lane("t", rides=False))
    desk.submit("other", steps=9)
    batches = desk.steps(3)
    assert [steps_of(batch) for batch in batches] == [(0, 1), (2, 3), ()]
    assert [batch.edits for batch in batches] == [(), ("other",), ("other",)]
    assert desk.scheduler.counts() == Counts(running=1, parked=1, lanes=1)
    desk.scheduler.committed("t")
    assert desk.turn().edits == ("other", "a")


def test_a_lane_advances_alone_until_it_is_where_its_edit_begins() -> None:
    desk = Desk(rows=200)
    desk.submit_cold("a", lane=a_lane("t", steps=6), first_step=3, steps=3)
    batches = desk.turns(7)[1:]
    assert [steps_of(batch) for batch in batches] == [(0, 1), (2,), (3,), (4,), (5,), ()]
    assert [batch.edits for batch in batches] == [(), (), ("a",), ("a",), ("a",), ()]


def test_a_rider_that_took_no_step_is_left_behind_where_steps_are_not_kept() -> None:
    desk = Desk()
    desk.submit_cold("a", lane=a_lane("t", keeps_steps=False))
    desk.turns(2)
    desk.turn(StepResult(stuck=frozenset({"a"})))
    assert desk.scheduler.counts() == Counts(parked=1, lanes=1)
    assert [steps_of(batch) for batch in desk.turns(2)] == [(2, 3), ()]
    desk.scheduler.committed("t")
    assert [batch.edits for batch in desk.turns(4)] == [("a",), ("a",), ("a",), ()]


def test_a_rider_that_took_no_step_follows_where_steps_are_kept() -> None:
    desk = Desk()
    desk.submit_cold("a", lane=a_lane("t"))
    desk.turn()
    desk.turn(StepResult(stuck=frozenset({"a"})))
    batches = desk.turns(5)
    assert [batch.edits for batch in batches] == [("a",)] * 4 + [()]
    assert [steps_of(batch) for batch in batches] == [(1,), (2,), (3,), (), ()]


def test_a_lane_that_fills_a_batch_takes_its_first_rider_along() -> None:
    desk = Desk(rows=50)
    desk.submit_cold("a", lane=a_lane("t"))
    desk.submit("other")
    assert [batch.edits for batch in desk.steps(5)] == [*[("a",)] * 4, ("other",)]


def test_a_lane_counts_in_what_fits() -> None:
    desk = Desk(rows=115)
    desk.submit_cold("a", lane=a_lane("t"))
    desk.submit("other")
    assert [batch.edits for batch in desk.steps(5)] == [*[("a",)] * 4, ("other",)]


def test_a_lane_needs_memory_until_it_is_committed() -> None:
    desk = Desk(num_bytes=65)
    desk.submit("a", steps=2)
    desk.submit_cold("b", lane=a_lane("t", steps=6), steps=6)
    desk.submit_cold("c", lane=a_lane("u"))
    assert [batch.edits for batch in desk.turns(14)] == [
        *[(), ("a",), (), ("a",)],
        *[(), ("b",), ("b",), ("b",), ("b",), ("b",), ("b",)],  # once a was decoded
        *[(), (), ()],
    ]
    assert desk.scheduler.counts() == Counts(ready=1, lanes=2)
    desk.scheduler.committed("t")
    assert desk.turn().edits == ("c",)


def test_a_warm_up_records_as_many_steps_in_one_forward_as_rows_allow() -> None:
    desk = Desk(rows=350)
    desk.scheduler.submit_lane(a_lane("t", steps=7))
    assert desk.scheduler.counts() == Counts(waiting_lanes=1)
    assert [steps_of(batch) for batch in desk.turns(4)] == [(0, 1, 2), (3, 4, 5), (6,), ()]
    assert desk.scheduler.counts() == Counts(lanes=1)
    desk.scheduler.committed("t")
    assert desk.scheduler.counts() == Counts()


def test_a_warm_up_takes_one_step_in_so_many_batches_beside_edits() -> None:
    desk = Desk(lane_every=3)
    desk.submit("a", steps=20)
    desk.turns(2)
    desk.scheduler.submit_lane(a_lane("t", steps=9))
    batches = desk.turns(10)
    assert [len(steps_of(batch)) for batch in batches] == [0, 1, 0, 0, 1, 0, 0, 1, 0, 0]
    assert all(batch.edits == ("a",) for batch in batches)


def test_a_warm_up_larger_than_a_batch_has_one_to_itself() -> None:
    desk = Desk(lane_every=2, rows=50)
    desk.submit("a", steps=20)
    desk.turns(2)
    desk.scheduler.submit_lane(a_lane("t"))
    batches = desk.turns(4)
    assert [(batch.edits, steps_of(batch)) for batch in batches] == [
        ((), (0,)),
        (("a",), ()),
        ((), (1,)),
        (("a",), ()),
    ]


def test_warm_ups_are_made_one_after_the_other_and_tenants_alternate() -> None:
    desk = Desk(rows=400)
    for template, tenant in [("t", "ann"), ("u", "ann"), ("v", "ann"), ("x", "bob")]:
        desk.scheduler.submit_lane(a_lane(template, tenant=tenant))
    assert [lane.template for batch in desk.turns(4) for lane in batch.lanes] == ["t", "x", "u", "v"]


def test_a_warm_up_keeps_memory_free_for_itself_when_its_turn_has_come() -> None:
    desk = Desk(num_bytes=60, lane_every=2, edits=4)
    desk.submit("a", "b", steps=6)
    desk.submit(*(f"later {number}" for number in range(9)), steps=6)
    desk.turns(3)
    desk.scheduler.submit_lane(a_lane("t", steps=2))
    desk.turns(20)
    assert desk.recorded("t") == [0, 1]
    assert desk.scheduler.counts().waiting > 3
    desk.scheduler.committed("t")
    desk.turns(40)
    assert desk.scheduler.counts() == Counts()


def test_warm_ups_that_are_not_committed_hold_the_next_one_up() -> None:
    desk = Desk(num_bytes=60)
    desk.scheduler.submit_lane(a_lane("t"))
    desk.scheduler.submit_lane(a_lane("u"))
    assert [batch.is_empty for batch in desk.turns(2)] == [False, True]
    desk.scheduler.committed("t")
    assert steps_of(desk.turn(), "u")


def test_a_warm_up_that_an_edit_joins_becomes_its_lane() -> None:
    desk = Desk(rows=150)
    desk.submit("a", steps=3)
    desk.scheduler.submit_lane(a_lane("t"))
    desk.submit_cold("b", lane=None)
    assert [batch.edits for batch in desk.steps(5)] == [("a",), ("a", "b"), ("a", "b"), ("b",), ("b",)]
    assert desk.recorded("t") == [0, 1, 2, 3]


def test_a_lane_waits_for_an_edit_that_is_to_ride() -> None:
    desk = Desk(edits=1, lane_every=1)
    desk.submit("a", steps=6)
    desk.submit_cold("b", lane=a_lane("t", keeps_steps=False), steps=4)
    batches = desk.steps(10)
    assert [batch.edits for batch in batches if batch.lanes] == [("b",)] * 4


def test_a_lane_whose_edit_was_cancelled_goes_on_as_a_warm_up() -> None:
    desk = Desk(rows=250)
    desk.submit_cold("a", lane=a_lane("t"))
    desk.turns(2)
    desk.scheduler.cancel("a")
    assert [steps_of(batch) for batch in desk.turns(3)] == [(1, 2), (3,), ()]


def test_a_lane_that_failed_leaves_its_edits_dense() -> None:
    desk = Desk()
    desk.submit_cold("a", lane=a_lane("t", keeps_steps=False))
    desk.turns(2)
    desk.submit_cold("late", lane=None)
    desk.turn()
    result = StepResult(rerouted={"a": "dense"}, failed_lanes=frozenset({"t", "unknown"}))
    assert desk.turn(result).lanes
    assert desk.scheduler.counts() == Counts(running=1, ready=1)
    assert desk.turn() == StepBatch(edits=("a", "late"), rows=200)
    assert desk.scheduler.counts() == Counts(running=2)


def test_a_lane_that_fails_outside_of_a_step_lets_its_parked_edits_go_dense() -> None:
    desk = Desk()
    desk.submit_cold("a", lane=a_lane("t", rides=False))
    desk.turns(3)
    assert desk.scheduler.counts() == Counts(parked=1, lanes=1)
    desk.scheduler.lane_failed("t")
    assert desk.turn() == StepBatch(edits=("a",), rows=100)


def test_a_warm_up_is_given_up_unless_edits_need_it() -> None:
    desk = Desk()
    desk.scheduler.submit_lane(a_lane("waits"))
    assert desk.scheduler.cancel_lane("waits")
    assert desk.turn().is_empty
    desk.submit_cold("a", lane=a_lane("t"))
    desk.turns(2)
    assert not desk.scheduler.cancel_lane("t")
    desk.scheduler.cancel("a")
    assert desk.turn().lanes
    assert desk.scheduler.cancel_lane("t")
    assert desk.turn().is_empty
    assert desk.scheduler.counts() == Counts()


def test_a_template_that_is_being_recorded_is_refused_as_a_warm_up() -> None:
    desk = Desk()
    desk.scheduler.submit_lane(a_lane("t"))
    for _ in range(2):
        with pytest.raises(ValueError, match="'t' is being recorded"):
            desk.scheduler.submit_lane(a_lane("t"))
        desk.turn()
    with pytest.raises(ValueError, match="0 steps"):
        desk.scheduler.submit_lane(a_lane("u", steps=0))


@pytest.mark.parametrize(
    ("opened", "message"),
    [
        (Opened("a", "lane", "t"), "not being recorded"),
        (Opened("a", "lane", "t", lane=a_lane("u")), "not being recorded"),
        (Opened("a", "lane", "t", 1, a_lane("t")), "needs step 4 of a lane of 4"),
        (Opened("a", "lane", "t", 0, a_lane("t", rows=0)), "of 0 rows"),
    ],
)
def test_an_edit_cannot_join_what_does_not_fit(opened: Opened, message: str) -> None:
    scheduler = Scheduler()
    scheduler.submit(an_edit("a"))
    assert scheduler.schedule(0.0).stage == StageItem("encode", "a")
    with pytest.raises(ValueError, match=message):
        scheduler.opened(opened)
    scheduler.drop("a")
    assert scheduler.counts() == Counts()


def test_lanes_of_another_model_are_not_mixed_with_edits() -> None:
    desk = Desk(lane_every=2)
    desk.submit("a", steps=20)
    desk.turns(2)
    desk.scheduler.submit_lane(a_lane("t", batch_key="other"))
    batches = desk.turns(6)
    assert desk.recorded("t") == [0, 1, 2]
    assert all(bool(batch.lanes) != bool(batch.edits) for batch in batches)


def test_a_lane_is_charged_to_its_tenant() -> None:
    desk = Desk(edits=1, encode_ahead=1)
    desk.submit_cold("a", lane=a_lane("t"))
    desk.submit("x", "y", "z", tenant="bob", steps=4)
    desk.submit("b", "c", steps=4)
    assert encoded(desk.turns(30)) == ["a", "x", "y", "z", "b", "c"]
