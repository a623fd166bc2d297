"""Edits from their submission to their decoding, within the limits."""

from __future__ import annotations

import pytest

from instgenie.sched.edit_book import Counts
from instgenie.sched.limits import BatchLimits
from instgenie.sched.scheduler import Scheduler
from instgenie.sched.step_batch import Opened, StageItem, StepBatch, StepResult
from tests.instgenie.sched.tasks import Desk, a_lane, an_edit, encoded, items_of, steps_of


def test_an_edit_is_encoded_takes_its_steps_and_is_decoded() -> None:
    scheduler = Scheduler()
    scheduler.submit(an_edit("a", steps=2))
    assert scheduler.counts() == Counts(waiting=1)
    assert scheduler.schedule(0.0) == StepBatch(stage=StageItem("encode", "a"))
    assert scheduler.counts() == Counts(opening=1)
    assert scheduler.schedule(1.0).is_empty  # its template is being looked up
    assert scheduler.opened(Opened("a", "records", "t"))
    assert scheduler.counts() == Counts(ready=1)
    for left in (1, 0):
        assert scheduler.schedule(2.0) == StepBatch(edits=("a",), rows=10)
        assert scheduler.counts() == Counts(running=1)
        scheduler.update(StepResult(seconds=1.0))
        assert scheduler.counts() == (Counts(running=1) if left else Counts(finishing=1))
    assert scheduler.schedule(4.0) == StepBatch(stage=StageItem("decode", "a"))
    assert scheduler.counts() == Counts(finishing=1)
    assert scheduler.schedule(5.0).is_empty
    assert scheduler.counts() == Counts()


def test_a_new_edit_joins_at_the_next_step_and_leaves_alone() -> None:
    desk = Desk()
    desk.submit("a", steps=4)
    desk.step()
    desk.submit("b", steps=1)
    assert [batch.edits for batch in desk.steps(3)] == [("a", "b"), ("a",), ("a",)]
    assert items_of(desk.turns(2)) == ["decode a"]


def test_an_edit_whose_template_is_looked_up_longer_joins_at_the_step_after() -> None:
    desk = Desk()
    desk.submit("a", steps=3)
    desk.step()
    desk.submit("b", steps=1)
    assert desk.scheduler.schedule(desk.now) == StepBatch(stage=StageItem("encode", "b"))
    assert desk.step().edits == ("a",)
    desk.scheduler.opened(Opened("b", "records", "t"))
    assert desk.step().edits == ("a", "b")


def test_in_static_batching_edits_wait_until_none_runs() -> None:
    desk = Desk(joins="empty")
    desk.submit("a", steps=4)
    desk.step()
    desk.submit("b", "c", steps=1)
    assert [batch.edits for batch in desk.steps(4)] == [("a",), ("a",), ("a",), ("b", "c")]


def test_a_batch_has_so_many_edits_at_most() -> None:
    desk = Desk(edits=2)
    desk.submit("a", "b", "c", steps=8)
    desk.encode()  # two steps meanwhile
    assert desk.turn().edits == ("a", "b")
    assert desk.scheduler.counts() == Counts(ready=1, running=2)
    assert [batch.edits for batch in desk.steps(7)] == [*[("a", "b")] * 5, ("b", "c"), ("c",)]


def test_a_step_has_so_many_rows_at_most_and_no_small_edit_goes_before_a_large_one() -> None:
    desk = Desk(rows=40)
    desk.submit("a", steps=8)
    desk.submit("large", active_tokens=33)
    desk.submit("small")
    desk.encode()
    assert desk.turn() == StepBatch(edits=("a",), rows=10)
    assert desk.scheduler.counts() == Counts(ready=2, running=1)
    assert [batch.edits for batch in desk.steps(6)] == [*[("a",)] * 5, ("large",)]
    desk.scheduler.cancel("large")
    assert desk.turn().edits == ("small",)


def test_an_edit_that_is_larger_than_a_step_runs_alone() -> None:
    desk = Desk(rows=40)
    desk.submit("large", active_tokens=400, steps=2)
    desk.submit("small", steps=1)
    desk.encode()  # the first step meanwhile
    assert [(batch.edits, batch.rows) for batch in desk.steps(2)] == [(("large",), 402), (("small",), 10)]


def test_edits_of_another_model_wait_for_their_turn_and_get_it() -> None:
    desk = Desk()
    desk.submit("a", steps=5)
    desk.submit("other", batch_key="other model", steps=1)
    desk.submit("b", steps=1)
    assert [batch.edits for batch in desk.steps(7)] == [("a",)] * 5 + [("other",), ("b",)]


def test_what_memory_holds_bounds_what_is_encoded() -> None:
    desk = Desk(num_bytes=25)
    desk.submit("a", steps=6)
    desk.submit("b", steps=9)
    desk.submit("c", num_bytes=20, steps=6)
    desk.submit("tiny", num_bytes=1)
    desk.steps(5)
    assert desk.scheduler.counts() == Counts(waiting=2, running=2)
    desk.step()
    assert desk.scheduler.counts() == Counts(waiting=2, running=1, finishing=1)
    desk.turns(12)  # the tiny one does not go before the one that waits
    assert items_of(desk.batches) == ["encode a", "encode b", "decode a", "decode b", "encode c", "encode tiny"]


def test_what_needs_more_memory_than_there_is_goes_alone() -> None:
    desk = Desk(num_bytes=25)
    desk.submit("huge", num_bytes=1000, steps=1)
    desk.submit("a", steps=1)
    edits = [batch.edits for batch in desk.turns(6)]
    assert edits == [(), ("huge",), (), (), ("a",), ()]


def test_no_more_is_encoded_than_may_wait() -> None:
    desk = Desk(edits=1, encode_ahead=2)
    desk.submit("a", "b", "c", "d", steps=9)
    desk.turns(6)
    assert desk.scheduler.counts() == Counts(waiting=1, ready=2, running=1)


def test_an_edit_whose_template_is_looked_up_counts_as_encoded() -> None:
    scheduler = Scheduler(BatchLimits(encode_ahead=1))
    scheduler.submit(an_edit("a"))
    scheduler.submit(an_edit("b"))
    assert scheduler.schedule(0.0).stage == StageItem("encode", "a")
    assert scheduler.schedule(1.0).is_empty
    scheduler.opened(Opened("a", "dense", ""))
    assert scheduler.schedule(2.0) == StepBatch(edits=("a",), rows=100)
    scheduler.update(StepResult(seconds=1.0))
    assert scheduler.schedule(3.0).stage == StageItem("encode", "b")


def test_priority_goes_first_and_waiting_makes_up_for_it() -> None:
    desk = Desk(edits=1)
    desk.submit("usual", arrived=0.0, steps=1)
    desk.submit("urgent", arrived=29.0, priority=1, steps=1)
    desk.submit("too late", arrived=31.0, priority=1, steps=1)
    desk.turns(9)
    assert encoded(desk.batches) == ["urgent", "usual", "too late"]


def test_an_urgent_edit_goes_before_its_tenants_that_were_encoded_earlier() -> None:
    desk = Desk(edits=1)
    desk.submit("a", steps=9)
    desk.step()
    desk.submit("usual", steps=1)
    desk.submit("bobs", tenant="bob", steps=1)
    desk.steps(2)
    desk.submit("urgent", priority=1, steps=1)
    edits = [edit for batch in desk.steps(9) for edit in batch.edits if edit != "a"]
    assert edits == ["urgent", "bobs", "usual"]


def test_tenants_share_evenly_whatever_one_of_them_submits() -> None:
    desk = Desk(edits=2, encode_ahead=2)
    desk.submit(*(f"ann {number}" for number in range(30)), steps=8)
    desk.steps(5)
    desk.submit(*(f"bob {number}" for number in range(9)), tenant="bob", steps=8)
    served = [edit.split()[0] for batch in desk.steps(70)[10:] for edit in batch.edits]
    assert len(served) == 120
    assert abs(served.count("ann") - served.count("bob")) <= 8


def test_an_edit_that_took_no_step_tries_again() -> None:
    desk = Desk()
    desk.submit("a", "b", steps=2)
    desk.step()
    assert desk.step(StepResult(stuck=frozenset({"b"}))).edits == ("a", "b")
    assert [batch.edits for batch in desk.turns(5)] == [(), ("b",), ("b",), (), ()]


def test_an_edit_that_failed_is_gone_without_a_word() -> None:
    desk = Desk()
    desk.submit("a", "b")
    desk.step()
    desk.step(StepResult(failed=frozenset({"a", "unknown"})))
    assert desk.turn() == StepBatch(edits=("b",), rows=10)
    assert desk.scheduler.counts() == Counts(running=1)


def test_edits_that_turn_dense_are_left_out_while_there_is_no_room_for_them() -> None:
    desk = Desk(rows=120, edits=3)
    desk.submit("a", "b", steps=4)
    desk.submit("c", steps=9)
    desk.steps(2)
    batch = desk.step(StepResult(rerouted={"b": "dense", "c": "dense", "unknown": "dense"}))
    assert batch.edits == ("a", "b", "c")
    desk.submit("new", steps=1)
    edits = [batch.edits for batch in desk.steps(10)]
    assert edits == [("a", "b"), ("b",), ("c", "new"), *[("c",)] * 7]


def test_a_refresh_counts_as_a_dense_step() -> None:
    """Edits of ten rows, a hundred in steps 0 and 2 of the second: it waits for room for those."""
    desk = Desk(rows=115)
    desk.submit("a", "b", steps=6)
    desk.step()
    desk.submit("c", steps=4, refresh_steps=frozenset({0, 2}))
    found = [(batch.edits, batch.rows) for batch in desk.steps(9)]
    assert found == [(("a", "b"), 20)] * 5 + [(("b", "c"), 110), (("c",), 10), (("c",), 100), (("c",), 10)]


def test_an_extrapolated_step_is_taken_with_the_one_before() -> None:
    desk = Desk(item_seconds=0.0)
    desk.submit("a", steps=8, extrapolated_steps=frozenset({3, 4, 6, 7}))
    desk.submit("b", steps=5)
    steps = [desk.step(StepResult(1.0, leaps={"a": leap})) for leap in (0, 0, 2, 2)]
    assert [(step.edits, step.rows) for step in steps] == [(("a", "b"), 20)] * 4
    assert desk.step().edits == ("b",)


def test_an_edit_that_leapt_ahead_of_its_lane_waits_for_it() -> None:
    """Its lane goes on to where it is in one step, and to the end when it is done."""
    desk = Desk(item_seconds=0.0, lane_rows=1000)
    desk.submit_cold("a", lane=a_lane("t", steps=8), steps=8, extrapolated_steps=frozenset({3, 4, 6, 7}))
    found = [(batch.edits, steps_of(batch)) for batch in desk.steps(2)]
    found += [(batch.edits, steps_of(batch)) for batch in (desk.step(StepResult(1.0, leaps={"a": 2})),)]
    found += [(batch.edits, steps_of(batch)) for batch in desk.steps(1)]
    found += [(batch.edits, steps_of(batch)) for batch in (desk.step(StepResult(1.0, leaps={"a": 2})),)]
    found += [(batch.edits, steps_of(batch)) for batch in desk.steps(1)]
    assert found == [(("a",), (0,)), (("a",), (1,)), (("a",), (2,)), ((), (3, 4)), (("a",), (5,)), ((), (6, 7))]


def test_a_tenant_is_charged_for_what_is_computed() -> None:
    """One whose edits compute a tenth of the steps has ten times as many as one whose edits compute each."""
    desk = Desk(edits=1, encode_ahead=1)
    desk.submit("a1", "a2", tenant="ann", steps=40)
    desk.submit(
        *(f"b{number:02}" for number in range(12)),
        tenant="bob",
        steps=40,
        extrapolated_steps=frozenset(range(4, 40)),
    )
    result = StepResult(1.0, leaps={f"b{number:02}": 36 for number in range(12)})
    leap_at_the_fourth, seen = 0, list[str]()
    while len(seen) < 14:
        edit = seen[-1] if seen else ""
        (current,) = desk.step(result if leap_at_the_fourth == 3 and edit.startswith("b") else None).edits
        leap_at_the_fourth = leap_at_the_fourth + 1 if current == edit else 1
        seen += [] if current == edit else [current]
    assert seen == ["a1", *(f"b{number:02}" for number in range(10)), "a2", "b10", "b11"]


def test_a_tenant_is_charged_for_refreshes() -> None:
    """One whose edits compute all tokens in each step has a tenth as many as one whose edits compute a tenth."""
    desk = Desk(edits=1, encode_ahead=1)
    desk.submit("a1", "a2", tenant="ann", refresh_steps=frozenset(range(4)))
    desk.submit(*(f"b{number:02}" for number in range(12)), tenant="bob")
    seen = list(dict.fromkeys(edit for batch in desk.steps(56) for edit in batch.edits))
    assert seen == ["a1", *(f"b{number:02}" for number in range(10)), "a2", "b10", "b11"]


def test_decoding_and_encoding_alternate_where_the_batch_has_room() -> None:
    desk = Desk(edits=4, encode_ahead=1)
    desk.submit("a", steps=3)
    desk.submit("b", steps=2)
    desk.submit("c", steps=1)
    desk.submit("d", "e", "f", steps=9)
    desk.steps(3)
    assert desk.scheduler.counts() == Counts(waiting=3, finishing=3)
    items = ["decode a", "encode d", "decode b", "encode e", "decode c", "encode f"]
    assert items_of(desk.turns(10)) == items


def test_decoding_goes_first_where_encoded_edits_fill_the_batch() -> None:
    desk = Desk(edits=2)
    desk.submit("a", steps=5)
    desk.submit("b", steps=4)
    desk.submit("c", "d", "e", steps=9)
    desk.turns(4)
    desk.encode()
    desk.submit("f", steps=9)
    desk.step()
    assert desk.scheduler.counts() == Counts(waiting=1, ready=3, finishing=2)
    assert items_of(desk.turns(6)) == ["decode a", "decode b", "encode f"]


def test_a_preview_is_made_of_what_runs_and_of_nothing_else() -> None:
    desk = Desk()
    desk.submit("a", steps=3)
    for edit in ("a", "unknown"):
        desk.scheduler.want_preview(edit)
    desk.turns(2)
    desk.scheduler.want_preview("a")
    assert desk.turn().stage == StageItem("preview", "a")
    desk.scheduler.want_preview("a")
    desk.scheduler.cancel("a")
    assert desk.turn().stage is None


def test_a_preview_that_comes_after_the_last_step_is_left_out() -> None:
    desk = Desk()
    desk.submit("a", steps=2)
    desk.step()
    desk.scheduler.want_preview("a")
    desk.submit("b", steps=9)
    assert items_of(desk.turns(9)) == ["encode b", "decode a"]


def test_an_id_that_is_known_is_refused_and_may_be_used_again_later() -> None:
    desk = Desk()
    desk.submit("a", steps=1)
    with pytest.raises(ValueError, match="'a' was submitted already"):
        desk.submit("a")
    desk.turns(4)
    desk.submit("a")
    assert desk.scheduler.counts() == Counts(waiting=1)


@pytest.mark.parametrize("changes", [{"steps": 0}, {"passes": 0}])
def test_an_edit_of_nothing_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="edit 'a' has"):
        Scheduler().submit(an_edit("a", **changes))


def test_a_step_has_to_be_answered_once() -> None:
    desk = Desk()
    desk.submit("a")
    desk.turn()
    desk.scheduler.schedule(1.0)
    with pytest.raises(AssertionError, match="not answered"):
        desk.scheduler.schedule(2.0)
    desk.scheduler.update(StepResult())
    with pytest.raises(AssertionError, match="no batch"):
        desk.scheduler.update(StepResult())
