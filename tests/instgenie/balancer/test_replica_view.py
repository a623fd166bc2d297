"""What events make of a view."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie.balancer.replica_view import ReplicaProfile, ReplicaView
from instgenie.balancer.template_map import Warmth
from instgenie.orders import ReplicaStats
from instgenie.sched.limits import BatchLimits
from tests.instgenie.balancer.fleets import COSTS, a_demand


def a_view(places: int = 3) -> ReplicaView:
    profile = ReplicaProfile(id="r", machine="m", limits=BatchLimits(edits=places, rows=1000), usual_steps=6)
    return ReplicaView(profile, COSTS, 0.0, "ready")


def accept(view: ReplicaView, *edit_ids: str, steps: int = 4) -> None:
    for edit_id in edit_ids:
        view.accept(a_demand(edit_id, steps=steps), Warmth.DEVICE)


def steps_until_free(view: ReplicaView) -> list[int]:
    return [max(0, free_at - view.steps) for free_at in view.slots().free_at]


def test_steps_make_the_backlog_smaller_and_the_end_ends_it() -> None:
    view = a_view()
    accept(view, "a", steps=4)
    assert (view.backlog().edits, view.backlog().seconds, view.backlog().tokens) == (1, 4, 4)
    for step in range(5):
        view.step("a", step, float(step))
    assert (view.backlog().edits, view.backlog().seconds) == (1, 0)  # its picture is being made
    assert steps_until_free(view) == [0, 0, 0]
    assert view.end("a", 5.0) == a_demand("a", steps=4)
    assert len(view) == 0
    assert view.heard_at == 5.0


def test_extrapolated_steps_are_over_with_the_one_before() -> None:
    view = a_view()
    demand = a_demand("a", steps=4)
    view.accept(replace(demand, extrapolated=frozenset({2, 3, 5})), Warmth.DEVICE)  # of seven
    left = []
    for step in (0, 1, 2 + 2, 4 + 2, 7):
        view.step("a", min(step, 7), 0.0)
        left.append(view.backlog().seconds)
    assert left == [4, 3, 2, 1, 0]


def test_who_waits_takes_the_place_that_is_free_first() -> None:
    view = a_view(places=2)
    accept(view, "a", "b", "c", "d")
    view.step("a", 3, 0.0)
    view.step("b", 1, 0.0)
    assert steps_until_free(view) == [1 + 4, 3 + 4]


def test_edits_of_a_batch_take_a_step_together() -> None:
    view = a_view()
    accept(view, "a", "b")
    view.step("a", 0, 0.0)
    view.step("b", 0, 0.0)
    view.step("a", 1, 0.0)
    assert view.backlog().seconds == 3 + 3
    view.step("b", 1, 0.0)
    assert view.backlog().seconds == 3 + 3
    view.step("b", 2, 0.0)
    assert view.backlog().seconds == 2 + 2


def test_edit_that_missed_a_step_has_more_left() -> None:
    view = a_view()
    accept(view, "a", "b")
    for edit_id, step in [("a", 0), ("b", 0), ("a", 1), ("a", 2), ("b", 1)]:
        view.step(edit_id, step, 0.0)
    assert steps_until_free(view) == [0, 2, 3]
    assert view.backlog().seconds == 2 + 3


def test_edit_that_should_have_begun_is_still_to_begin() -> None:
    view = a_view(places=2)
    accept(view, "a", "b")
    view.step("a", 0, 0.0)
    assert steps_until_free(view) == [4, 4]
    view.step("a", 1, 0.0)
    view.step("a", 2, 0.0)
    assert steps_until_free(view) == [2, 4]


def test_edit_that_ends_early_leaves_its_place() -> None:
    view = a_view(places=1)
    accept(view, "a", "b")
    view.step("a", 1, 0.0)
    assert steps_until_free(view) == [3 + 4]
    view.end("a", 0.0)
    assert steps_until_free(view) == [4]


def test_what_is_not_known_is_ignored() -> None:
    view = a_view()
    view.step("a", 1, 3.0)
    assert view.end("a", 4.0) is None
    assert (len(view), view.backlog().seconds, view.heard_at) == (0, 0, 4.0)


def test_an_edit_cannot_be_there_twice() -> None:
    view = a_view()
    accept(view, "a")
    with pytest.raises(ValueError, match="'a' is at replica 'r'"):
        accept(view, "a")
    view.step("a", 0, 0.0)
    with pytest.raises(ValueError, match="'a' is at replica 'r'"):
        accept(view, "a")


def test_edits_of_other_front_ends_count_as_the_usual_ones() -> None:
    view = a_view()
    accept(view, "a")
    assert view.hear(ReplicaStats(waiting=1, running=2, tokens=10), 1.0) == []
    assert view.backlog().edits == 3
    assert view.backlog().seconds == 4 + 2 * (3 * 5)  # three steps of five rows
    view.hear(ReplicaStats(waiting=1), 2.0)
    assert (view.backlog().edits, view.backlog().seconds) == (1, 4)


def test_stats_may_not_know_yet_of_what_was_just_sent() -> None:
    view = a_view()
    accept(view, "a")
    assert view.hear(ReplicaStats(), 1.0) == []
    assert view.backlog().edits == 1


def test_what_has_begun_and_is_not_there_any_more_is_over() -> None:
    view = a_view()
    accept(view, "a", "b", "c")
    view.step("a", 1, 0.0)
    view.step("b", 3, 0.0)
    assert [demand.id for demand in view.hear(ReplicaStats(running=1), 1.0)] == ["b"]
    assert [demand.id for demand in view.demands()] == ["a", "c"]


def test_other_costs_are_those_of_the_edits_too() -> None:
    view = a_view()
    accept(view, "a")
    view.slots()
    view.learn_costs(replace(COSTS, masked=replace(COSTS.masked, row=3.0)), 1.0)
    assert view.backlog().seconds == 4 * 3
    assert view.slots().seconds == [0, 0, 3]


def test_edits_that_run_have_places_even_if_they_are_wider_than_was_thought() -> None:
    profile = ReplicaProfile(id="r", machine="m", limits=BatchLimits(edits=3, rows=3))
    view = ReplicaView(profile, COSTS, 0.0, "ready")
    for edit_id in "abc":
        view.accept(a_demand(edit_id, active_tokens=2), Warmth.DEVICE)
        view.step(edit_id, 1, 0.0)
    assert steps_until_free(view) == [3, 3, 3]


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(["accept", "step", "end"]), st.integers(0, 4))))
def test_views_kept_over_many_events_are_those_made_anew(events: list[tuple[str, str, int]]) -> None:
    view = a_view(places=2)
    there: set[str] = set()
    begun: set[str] = set()
    for edit_id, event, step in events:
        if event == "accept" and edit_id not in there:
            accept(view, edit_id)
            there.add(edit_id)
        elif event == "step" and edit_id in there and len(begun | {edit_id}) <= 2:
            view.step(edit_id, step, 0.0)
            begun.add(edit_id)
        elif event == "end":
            view.end(edit_id, 0.0)
            there.discard(edit_id)
            begun.discard(edit_id)
        slots, backlog = view.slots(), view.backlog()
        view.learn_costs(COSTS, 0.0)  # finds all anew
        assert view.backlog() == backlog
        assert [max(0, at - view.steps) for at in slots.free_at] == steps_until_free(view)
