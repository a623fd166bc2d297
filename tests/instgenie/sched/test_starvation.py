"""No tenant starves, and what waits does not make scheduling slow."""

from __future__ import annotations

import itertools
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.instgenie.sched.tasks import Desk

MOST_STEPS = 6
CROWDS = st.lists(  # what each of the other tenants submits before a step, and whether it cancels it later
    st.tuples(st.integers(-5, 5), st.integers(1, MOST_STEPS), st.integers(1, 90), st.booleans()),
    min_size=1,
    max_size=6,
)


@given(
    crowd=CROWDS,
    num_others=st.integers(1, 4),
    steps_before=st.integers(0, 30),
    edits=st.integers(1, 4),
    encode_ahead=st.integers(1, 4),
    rows=st.sampled_from([10, 100, 1000]),
)
@example(  # the other tenant was given back what an edit had cost that was admitted earlier, and was even once more
    crowd=[(3, 2, 2, True), (-5, 5, 75, True)], num_others=1, steps_before=5, edits=1, encode_ahead=1, rows=10
)
def test_whatever_others_submit_a_tenants_edit_is_admitted_soon(
    crowd: list[tuple[int, int, int, bool]],
    num_others: int,
    steps_before: int,
    edits: int,
    encode_ahead: int,
    rows: int,
) -> None:
    """Admitted before it are the edits that were encoded when it came, and one of each other tenant, at most.

    The first are `encode_ahead`; the others follow from `FairQueue`, since the tenant has had nothing so far. In the
    worst case each of these, and before them the running ones, take their steps one after the other, and some steps
    pass before each is encoded and decoded.
    """
    desk = Desk(edits=edits, encode_ahead=encode_ahead, rows=rows)
    numbers = itertools.count()
    others: list[str] = []
    to_cancel: dict[int, list[str]] = {}

    def flood(step: int) -> None:
        for tenant in range(num_others):
            number = next(numbers)
            priority, steps, active, is_cancelled = crowd[number % len(crowd)]
            name = f"other {number}"
            desk.submit(name, tenant=f"tenant {tenant}", priority=priority, steps=steps, active_tokens=active)
            others.append(name)
            if is_cancelled:
                to_cancel.setdefault(step + 1 + number % 7, []).append(name)
        for name in to_cancel.pop(step, []):
            desk.scheduler.cancel(name)

    for step in range(steps_before):
        flood(step)
        desk.step()
    admitted_before = {edit for batch in desk.batches for edit in batch.edits}
    desk.submit("mine", tenant="me", priority=-100)
    most_overtaking = encode_ahead + num_others
    most_steps = (edits + most_overtaking + 1) * (MOST_STEPS + 4)
    overtaking: set[str] = set()
    for step in range(steps_before, steps_before + most_steps):
        flood(step)
        started = set(desk.step().edits) - admitted_before
        if "mine" in started:
            break
        overtaking |= started
    else:
        raise AssertionError(f"not admitted within {most_steps} steps")
    assert len(overtaking) <= most_overtaking


def calls_of_a_step(num_waiting: int, steps: int) -> int:
    """Functions that are called, on average, to schedule and update from one step to the next.

    Args:
        num_waiting: edits, besides eight that run.
        steps: of an edit; there are stage items as edits come and go.
    """
    desk = Desk(item_seconds=0.05, encode_ahead=4)
    numbers = itertools.count()

    def fill() -> None:
        for _ in range(num_waiting - desk.scheduler.counts().waiting):
            number = next(numbers)
            tenant, deadline = f"tenant {number % 20}", 1e8 + number
            desk.submit(f"{number}", tenant=tenant, priority=number % 3, deadline=deadline, steps=steps)

    for _ in range(32):
        fill()
        desk.step()
    assert len(desk.step().edits) == 8
    count = 0

    def on_event(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    for _ in range(32):
        fill()
        sys.setprofile(on_event)
        try:
            desk.step()
        finally:
            sys.setprofile(None)
    return count // 32


@pytest.mark.parametrize(("steps", "most"), [(1000, 500), (4, 1500)])
def test_a_step_costs_the_same_however_many_wait(steps: int, most: int) -> None:
    few = calls_of_a_step(10, steps)
    assert few < most
    assert calls_of_a_step(2000, steps) == pytest.approx(few, rel=0.2)
