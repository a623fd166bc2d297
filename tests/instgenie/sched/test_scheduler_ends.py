"""Edits that are given up: cancelled, expired, dropped."""

from __future__ import annotations

import pytest

from instgenie.sched.edit_book import Counts
from instgenie.sched.step_batch import Ended, Opened, StageItem, StepResult
from tests.instgenie.sched.tasks import Desk, encoded

TURNS_TO = {"waiting": 0, "opening": 1, "running": 2, "finishing": 5}


def bring_to(phase: str, desk: Desk, deadline: float | None = None) -> None:
    """An edit `a` of four steps in that phase; another one waits or runs as well."""
    desk.submit("a", deadline=deadline)
    if phase == "opening":
        desk.scheduler.schedule(desk.now)
    elif phase == "ready":
        desk.turn()
    else:
        desk.turns(TURNS_TO[phase])
    assert getattr(desk.scheduler.counts(), phase) == 1


@pytest.mark.parametrize("phase", ["waiting", "opening", "ready", "running", "finishing"])
def test_a_cancelled_edit_ends_once_and_is_in_no_later_batch(phase: str) -> None:
    desk = Desk()
    bring_to(phase, desk)
    desk.scheduler.cancel("a")
    desk.scheduler.cancel("a")
    batch = desk.turn()
    assert batch.ended == (Ended("a", "cancelled"),)
    assert not batch.edits
    assert not batch.stage
    assert desk.turn().is_empty
    assert desk.scheduler.counts() == Counts()
    assert not desk.scheduler.opened(Opened("a", "records", "t"))


def test_an_edit_that_is_being_decoded_is_not_cancelled() -> None:
    desk = Desk()
    desk.submit("a", steps=1)
    assert desk.turns(3)[-1].stage == StageItem("decode", "a")
    desk.scheduler.cancel("a")
    assert desk.turn().is_empty


def test_what_was_cancelled_while_its_step_ran_ends_with_the_next_batch() -> None:
    desk = Desk()
    desk.submit("a", steps=2)
    desk.turn()
    assert desk.scheduler.schedule(1.0).edits == ("a",)
    desk.scheduler.cancel("a")
    desk.scheduler.update(StepResult(seconds=1.0))
    assert desk.turn().ended == (Ended("a", "cancelled"),)


@pytest.mark.parametrize("phase", ["waiting", "opening", "ready", "running", "finishing"])
def test_a_dropped_edit_is_gone_without_a_word(phase: str) -> None:
    desk = Desk()
    bring_to(phase, desk)
    desk.scheduler.cancel("a")
    desk.scheduler.drop("a")
    desk.scheduler.drop("unknown")
    assert desk.turn().is_empty
    assert desk.scheduler.counts() == Counts()


def test_an_id_that_was_dropped_and_came_back_while_a_step_ran_has_taken_no_step() -> None:
    desk = Desk()
    desk.submit("a", steps=1)
    desk.turn()
    assert desk.scheduler.schedule(1.0).edits == ("a",)
    desk.scheduler.drop("a")
    desk.submit("a", steps=1)
    desk.scheduler.update(StepResult(seconds=1.0))
    assert desk.scheduler.counts() == Counts(waiting=1)


@pytest.mark.parametrize("phase", ["waiting", "opening", "ready", "running", "finishing"])
def test_an_edit_expires_at_its_deadline(phase: str) -> None:
    desk = Desk()
    bring_to(phase, desk, deadline=1000.0)
    assert desk.turn().ended == ()
    desk.now = 1000.0
    batch = desk.turn()
    if phase == "finishing":  # its decoding had begun
        assert batch.is_empty
    else:
        assert batch.ended == (Ended("a", "expired"),)
        assert not batch.edits
    assert desk.turn().is_empty


def test_a_finished_edit_that_waits_for_its_decoding_expires_at_its_deadline_only() -> None:
    desk = Desk()
    desk.submit("a", steps=3, deadline=100.0)
    desk.submit("b", steps=2, deadline=100.0)
    desk.steps(3)
    desk.turn()
    assert desk.scheduler.counts() == Counts(finishing=2)  # a is being decoded
    assert desk.scheduler.next_deadline() == 100.0
    desk.now = 100.0
    assert desk.turn().ended == (Ended("b", "expired"),)


def test_what_cannot_be_done_in_time_even_alone_costs_no_step() -> None:
    desk = Desk()
    desk.submit("a", steps=1)
    desk.turns(3)  # a step of ten rows took a second
    desk.submit("tight", steps=4, deadline=desk.now + 6.5)
    desk.submit("hopeless", steps=4, deadline=desk.now + 3.9)
    assert desk.turn().ended == (Ended("hopeless", "expired"),)
    edits = [edit for batch in desk.turns(6) for edit in batch.edits]
    assert edits == ["tight"] * 4


def test_a_running_edit_expires_as_soon_as_it_is_hopeless() -> None:
    desk = Desk()
    desk.submit("a", steps=8, deadline=11.0)
    desk.turns(2)
    assert desk.scheduler.next_deadline() == pytest.approx(4.0)
    assert desk.turn().edits == ("a",)
    desk.now = 6.0  # something took long: it has six steps to take
    assert desk.turn().ended == (Ended("a", "expired"),)


def test_before_the_first_step_nothing_is_called_hopeless() -> None:
    desk = Desk()
    desk.submit("a", steps=1000, deadline=5.0)
    assert desk.scheduler.next_deadline() == 5.0
    assert desk.turns(2)[-1].edits == ("a",)


def test_the_memory_of_what_ended_is_free_for_the_next() -> None:
    desk = Desk(num_bytes=15)
    desk.submit("a", "b")
    desk.turns(3)
    assert desk.scheduler.counts() == Counts(waiting=1, running=1)
    desk.scheduler.cancel("a")
    assert desk.turn().stage == StageItem("encode", "b")


def test_who_cancels_is_charged_a_step_only() -> None:
    desk = Desk(edits=1, encode_ahead=1)
    desk.submit("a", steps=100)
    desk.submit("b", "c", tenant="bob", steps=3)
    desk.submit("d", steps=3)
    desk.turns(3)  # b, which is even with a, is ready
    desk.scheduler.cancel("a")
    assert encoded(desk.turns(12)) == ["d", "c"]
