"""What is given back when an answer comes that nobody waits for, and what is not because somebody else uses it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from instgenie_cache.client.grants import Grants
from instgenie_cache.wire.messages import (
    Abort,
    CreateReply,
    Delete,
    Empty,
    Fetch,
    FetchReply,
    Lease,
    LeaseReply,
    Pin,
    PinReply,
    Release,
    Request,
)

FETCH, STEP = Fetch(lease=1, step=2), Release(lease=1, step=2)
PIN, UNPIN = Pin(template="a"), Pin(template="a", pinned=False)
MAPPED, HELD = FetchReply(lost=False, pieces=[[0, 1]]), PinReply(held=True)


def asked(*requests: Request) -> Grants:
    """Numbers of the requests are 1, 2, ..."""
    grants = Grants()
    for number, request in enumerate(requests, start=1):
        grants.asked(number, request)
    return grants


def late(grants: Grants, number: int, request: Request, reply: Any) -> Request | None:
    grants.answered(number, request, reply)
    return grants.to_give_back(number, request, reply)


def test_leases_and_writers_are_given_back() -> None:
    assert late(Grants(), 1, Lease(template="a"), LeaseReply(lease=7)) == Release(lease=7)
    assert late(Grants(), 1, Lease(template="a"), LeaseReply(lease=None)) is None
    assert late(Grants(), 1, Delete(template="a"), Empty()) is None
    assert late(Grants(), 1, Lease(template="a"), CreateReply(writer=3)) == Abort(writer=3)


def test_step_and_pin_that_nobody_else_has() -> None:
    assert late(asked(FETCH), 1, FETCH, MAPPED) == STEP
    assert late(asked(PIN), 1, PIN, HELD) == UNPIN


def test_nothing_was_granted() -> None:
    assert late(asked(FETCH), 1, FETCH, FetchReply(lost=True)) is None
    assert late(asked(FETCH), 1, FETCH, FetchReply(lost=False)) is None  # the bytes were sent
    assert late(asked(PIN), 1, PIN, PinReply(held=False)) is None
    assert late(asked(UNPIN), 1, UNPIN, HELD) is None


def test_somebody_asked_for_the_same_later() -> None:
    assert late(asked(FETCH, FETCH), 1, FETCH, MAPPED) is None
    assert late(asked(PIN, PIN), 1, PIN, HELD) is None


def test_the_last_of_several_that_nobody_takes_gives_it_back() -> None:
    for request, reply, back in ((FETCH, MAPPED, STEP), (PIN, HELD, UNPIN)):
        grants = asked(request, request)
        assert late(grants, 1, request, reply) is None
        assert late(grants, 2, request, reply) == back


def test_somebody_has_the_same_from_before() -> None:
    for request, reply in ((FETCH, MAPPED), (PIN, HELD)):
        grants = asked(request)
        grants.answered(1, request, reply)
        grants.asked(2, request)
        assert late(grants, 2, request, reply) is None


def test_step_that_was_released_before_its_answer_is_released_again() -> None:
    """The service may have handed it out only after the release."""
    assert late(asked(FETCH, STEP), 1, FETCH, MAPPED) == STEP
    assert late(asked(FETCH, Release(lease=1)), 1, FETCH, MAPPED) == STEP
    assert late(asked(FETCH, STEP, FETCH), 1, FETCH, MAPPED) is None


def test_pin_that_was_ended_before_its_answer_is_not_ended_again() -> None:
    assert late(asked(PIN, UNPIN), 1, PIN, HELD) is None


def test_steps_and_pins_are_told_apart() -> None:
    other_step, other_pin = Fetch(lease=1, step=3), Pin(template="b")
    assert late(asked(FETCH, other_step), 1, FETCH, MAPPED) == STEP
    assert late(asked(FETCH, Fetch(lease=2, step=2)), 1, FETCH, MAPPED) == STEP
    assert late(asked(PIN, other_pin), 1, PIN, HELD) == UNPIN


@given(st.lists(st.tuples(st.sampled_from([FETCH, STEP, Release(lease=1), PIN, UNPIN]), st.booleans(), st.booleans())))
def test_nothing_is_remembered_of_what_was_released(script: list[tuple[Request, bool, bool]]) -> None:
    """Whatever is answered, and whether that is taken."""
    grants = Grants()
    for number, (request, is_granted, is_taken) in enumerate(script, start=1):
        grants.asked(number, request)
        replies = {Fetch: MAPPED, Pin: HELD}
        reply = replies.get(type(request)) if is_granted else None
        grants.answered(number, request, reply)
        if reply is not None and not is_taken and (back := grants.to_give_back(number, request, reply)) is not None:
            grants.asked(number, back)
    grants.asked(len(script) + 1, Release(lease=1))
    grants.asked(len(script) + 2, UNPIN)
    assert not grants._steps
    assert not grants._pins
