"""How much stage work goes between two steps."""

from __future__ import annotations

import pytest

from instgenie.sched.stage_budget import StageBudget
from instgenie.sched.step_batch import StageKind


def work(budget: StageBudget, kind: StageKind, seconds: float) -> None:
    budget.begin(kind, 100.0)
    budget.end(100.0 + seconds)


def that_knows(share: float = 0.5, step: float = 8.0, **seconds: float) -> StageBudget:
    """At the start of the time between two steps, by kind what its items take."""
    budget = StageBudget(share)
    kinds: tuple[StageKind, ...] = ("encode", "preview", "decode")
    for kind in kinds:
        if kind in seconds:
            work(budget, kind, seconds[kind])
    budget.stepped(step)
    return budget


def test_the_first_item_goes_whatever_it_takes() -> None:
    assert StageBudget(0.5).allows("encode")
    assert that_knows(encode=1000.0).allows("encode")


def test_nothing_goes_after_it_before_the_first_step() -> None:
    budget = StageBudget(0.5)
    work(budget, "encode", 0.0625)
    assert not budget.allows("encode")


def test_a_kind_of_which_nothing_is_known_does_not_fit() -> None:
    budget = that_knows(encode=1.0)
    work(budget, "encode", 1.0)
    assert budget.allows("encode")
    assert not budget.allows("decode")
    budget.stepped(8.0)
    work(budget, "decode", 1.0)
    assert budget.allows("decode")


@pytest.mark.parametrize(("share", "items"), [(0.125, 1), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_items_fill_their_share_of_the_step_and_no_more(share: float, items: int) -> None:
    budget = that_knows(share, encode=1.0)
    for _ in range(items):
        assert budget.allows("encode")
        work(budget, "encode", 1.0)
    assert not budget.allows("encode")


def test_what_counts_is_the_time_that_items_took_and_that_the_next_may_take() -> None:
    budget = that_knows(encode=1.0, decode=3.0)
    work(budget, "encode", 1.25)
    assert not budget.allows("decode")
    assert budget.allows("encode")
    work(budget, "encode", 2.0)
    assert not budget.allows("encode")


def test_a_longer_step_leaves_more_time_and_one_of_which_nothing_came_is_left_out() -> None:
    budget = that_knows(encode=1.0)
    budget.stepped(0.0)
    work(budget, "encode", 3.0)
    assert budget.allows("encode")
    budget.stepped(2.0)
    work(budget, "encode", 1.0)
    assert not budget.allows("encode")


def test_one_item_that_took_long_or_no_time_says_nothing_of_the_others() -> None:
    for odd in (1000.0, 0.0):
        budget = that_knows(encode=3.0)
        work(budget, "encode", odd)
        work(budget, "encode", 3.0)
        budget.stepped(8.0)
        work(budget, "decode", 1.0)
        assert budget.allows("encode")
        work(budget, "decode", 0.25)
        assert not budget.allows("encode")


def test_what_items_took_is_forgotten_after_eight_of_them() -> None:
    budget = that_knows(encode=1000.0)
    for _ in range(8):
        work(budget, "encode", 1000.0)
    for count in range(1, 9):
        work(budget, "encode", 1.0)
        budget.stepped(8.0)
        budget.begin("decode", 0.0)
        budget.end(0.0)
        assert budget.allows("encode") == (count >= 4)


def test_an_item_is_counted_once() -> None:
    budget = that_knows(encode=3.0)
    budget.begin("encode", 1.0)
    budget.end(2.0)
    budget.end(1000.0)
    assert budget.allows("encode")
