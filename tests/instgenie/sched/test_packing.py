"""What goes together in one step."""

from __future__ import annotations

from typing import Any

from instgenie.sched.lanes import Lane
from instgenie.sched.packing import Packing, pack
from instgenie.sched.step_batch import LaneSteps
from instgenie.sched.tracked_edit import TrackedEdit
from tests.instgenie.sched.tasks import a_lane, an_edit


def running(number: int, lane: Lane | None = None, taken: int = 0, **changes: Any) -> TrackedEdit:
    """An edit that was admitted as that one; it rides with the lane."""
    edit = TrackedEdit(an_edit(str(number), steps=9, **changes), phase="running", number=number, taken=taken)
    if lane is not None:
        edit.route, edit.template = "lane", lane.task.template
        lane.edits[edit.task.id] = edit
    return edit


def packed(most_rows: int, edits: list[TrackedEdit], *lanes: Lane) -> tuple[str, list[tuple[int, ...]], int]:
    """Edits, steps of each lane, and rows."""
    packing = Packing(most_rows, most_rows)
    pack(edits, lanes, packing)
    return "".join(packing.edits), [steps.steps for steps in packing.lanes], packing.rows


def lane_at(step: int, **changes: Any) -> Lane:
    return Lane(a_lane("t", steps=9, **changes), next_step=step)


def test_nothing_makes_an_empty_batch() -> None:
    packing = Packing(100, 100)
    pack([], [], packing)
    assert packing.is_empty
    assert packing.rows == 0


def test_who_was_admitted_first_goes_first_and_who_fits_goes_along() -> None:
    edits = [running(2), running(1, active_tokens=78), running(0)]
    assert packed(95, edits) == ("01", [], 90)
    assert packed(85, edits) == ("02", [], 20)
    assert packed(1, edits) == ("0", [], 10)


def test_edits_of_another_key_stay_out() -> None:
    assert packed(95, [running(0), running(1, batch_key="other"), running(2)]) == ("02", [], 20)


def test_riders_go_together_or_not_at_all_where_steps_are_not_kept() -> None:
    lane = lane_at(3, keeps_steps=False)
    edits = [running(0), running(1, lane, taken=3), running(2, lane, taken=3), running(3)]
    assert packed(130, edits, lane) == ("012", [(3,)], 130)
    assert packed(129, edits, lane) == ("03", [], 20)


def test_where_steps_are_kept_one_rider_goes_along_for_certain() -> None:
    lane = lane_at(3)
    edits = [running(0, lane, taken=3), running(1, lane, taken=3), running(2, lane, taken=1)]
    assert packed(1, edits, lane) == ("0", [(3,)], 110)
    assert packed(120, edits, lane) == ("01", [(3,)], 120)
    assert packed(130, edits, lane) == ("012", [(3,)], 130)


def test_who_is_behind_the_lane_goes_without_it_and_who_is_before_it_waits() -> None:
    lane = lane_at(3)
    edits = [running(0), running(1, lane, taken=1), running(2, lane, taken=5), running(3, lane, taken=3)]
    assert packed(115, edits, lane) == ("01", [], 20)
    assert packed(200, edits, lane) == ("031", [(3,)], 130)


def test_a_lane_that_nobody_rides_takes_steps_until_its_first_edit_can() -> None:
    lane = lane_at(3)
    edits = [running(0), running(1, lane, taken=6), running(2, lane, taken=8)]
    assert packed(220, edits, lane) == ("0", [(3, 4)], 210)
    assert packed(1000, edits, lane) == ("0", [(3, 4, 5)], 310)
    lane.edits.clear()
    lane.edits["parked"] = TrackedEdit(an_edit("parked"), phase="parked", route="lane", template="t", number=3)
    assert packed(1000, edits[:1], lane) == ("0", [(3, 4, 5, 6, 7, 8)], 610)


def test_what_was_taken_before_the_edits_counts() -> None:
    packing = Packing(115, 115)
    assert packing.add([], Lane(a_lane("warm")))
    pack([running(0), running(1)], [], packing)
    assert (tuple(packing.edits), packing.lanes, packing.rows) == (("0",), (LaneSteps("warm", (0,)),), 110)


def test_steps_of_a_lane_alone_go_together_up_to_a_limit_of_their_own() -> None:
    lane = Lane(a_lane("warm", steps=9))
    counts = []
    for most_lane_rows in (1, 250, 1000):
        packing = Packing(500, most_lane_rows)
        assert packing.add([], lane)
        packing.extend(lane, until=9)
        counts.append(len(packing.lanes[0].steps))
    assert counts == [1, 2, 5]
