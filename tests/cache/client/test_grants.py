"""What is given back when an answer comes that nobody waits for, and what is not because somebody else uses it."""

from __future__ import annotations

from typing import Any

import pytest
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


def test_the_first_and_the_third_give_up_what_the_second_uses() -> None:
    for request, reply, back in ((FETCH, MAPPED, STEP), (PIN, HELD, UNPIN)):
        grants = asked(request, request)
        grants.answered(1, request, reply)
        grants.answered(2, request, reply)
        assert grants.to_give_back(1, request, reply) is None
        grants.asked(3, request)
        assert late(grants, 3, request, reply) is None
        assert grants.to_give_back(2, request, reply) == back


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


def test_blocks_of_a_step_are_granted_as_the_step() -> None:
    """Where it is in memory the client has all of it, whatever blocks it asked for."""
    some, others = Fetch(lease=1, step=2, blocks=[0, 1]), Fetch(lease=1, step=2, blocks=[1, 3])
    assert late(asked(some), 1, some, MAPPED) == STEP
    assert late(asked(some), 1, some, FetchReply(lost=False)) is None
    assert late(asked(some, others), 1, some, MAPPED) is None
    assert late(asked(FETCH, some), 1, FETCH, MAPPED) is None


class Users:
    """Any number of them ask for one thing, get it and give it up, as they like."""

    def __init__(self, ask: Request, reply: Any, end: Request) -> None:
        self.grants = Grants()
        self.ask_for, self.reply, self.end = ask, reply, end
        self.number = 0
        self.last_end = 0
        self.asking: list[int] = []
        self.having: list[int] = []
        self.is_granted = False  # as the service sees it, once it has answered everything

    def ask(self, _: int = 0) -> None:
        self.number += 1
        self.grants.asked(self.number, self.ask_for)
        self.asking.append(self.number)
        self.is_granted = True

    def answer(self, which: int = 0) -> None:
        if self.asking:
            number = self.asking.pop(which % len(self.asking))
            self.grants.answered(number, self.ask_for, self.reply)
            self.having.append(number)

    def give_up(self, which: int = 0) -> None:
        if self.having:
            number = self.having.pop(which % len(self.having))
            if (back := self.grants.to_give_back(number, self.ask_for, self.reply)) is not None:
                assert back == self.end
                assert not [other for other in (*self.asking, *self.having) if other > self.last_end], "it is in use"
                self.let_go()

    def let_go(self, _: int = 0) -> None:
        """The user of it ends it for all, as one that closes a lease does."""
        self.number += 1
        self.grants.asked(self.number, self.end)
        self.last_end = self.number
        self.is_granted = False


STEPS = st.tuples(st.sampled_from([Users.ask, Users.answer, Users.give_up, Users.let_go]), st.integers(0, 5))


@pytest.mark.parametrize(("ask", "reply", "end"), [(FETCH, MAPPED, STEP), (PIN, HELD, UNPIN)], ids=["step", "pin"])
@given(st.lists(STEPS, max_size=30))
def test_it_is_given_back_by_the_last_and_by_no_other(
    ask: Request, reply: Any, end: Request, script: list[tuple[Any, int]]
) -> None:
    users = Users(ask, reply, end)
    for do, which in script:
        do(users, which)
    while users.asking:
        users.answer()
    while users.having:
        users.give_up()
    assert not users.is_granted


ANY = st.sampled_from([FETCH, Fetch(lease=1, step=2, blocks=[0, 1]), STEP, Release(lease=1), PIN, UNPIN])


@given(st.lists(st.tuples(ANY, st.booleans(), st.booleans())))
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
