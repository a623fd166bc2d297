"""A batch's step: against playing it block by block, and by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie.pipeline.planner import BlockCosts, LoaderState, plan_step
from instgenie.sim.step_time import Reading, StepTime, step_time

SECONDS = st.floats(0, 100, allow_subnormal=False)


def readings(blocks: int) -> st.SearchStrategy[list[Reading]]:
    reading = st.builds(Reading, SECONDS, SECONDS, st.integers(0, blocks), st.just(0.0) | SECONDS)
    return st.lists(reading, max_size=4)


def by_blocks(masked: float, given_readings: list[Reading], time: StepTime, blocks: int) -> float:
    """Block by block, load by load, with the prefixes that were chosen."""
    arrives = [0.0] * blocks
    loader = 0.0
    for reading, prefix in zip(given_readings, time.prefixes, strict=True):
        loads = range(max(prefix, reading.ahead), blocks)
        if reading.load and loads:
            loader = max(loader, reading.after)
            for block in loads:
                loader += reading.load / blocks
                arrives[block] = max(arrives[block], loader)
    now = 0.0
    for block in range(blocks):
        in_full = sum(r.more_in_full for r, prefix in zip(given_readings, time.prefixes, strict=True) if block < prefix)
        now = max(now, arrives[block]) + (masked + in_full) / blocks
    return now


@given(st.data(), st.integers(1, 12), st.floats(0.1, 100))
def test_step_is_what_comes_of_playing_it(data: st.DataObject, blocks: int, masked: float) -> None:
    given_readings = data.draw(readings(blocks))
    time = step_time(masked, given_readings, blocks)
    assert time.seconds == pytest.approx(by_blocks(masked, given_readings, time, blocks))


@given(st.integers(1, 20), st.floats(0.1, 100), SECONDS, SECONDS, SECONDS)
def test_one_edit_is_as_planned(blocks: int, masked: float, more: float, load: float, after: float) -> None:
    time = step_time(masked, [Reading(more, load, after=after)], blocks)
    costs = BlockCosts(
        (masked / blocks,) * blocks, ((masked + more) / blocks,) * blocks, (load / blocks,) * blocks, (0,) * blocks
    )
    plan = plan_step(costs, LoaderState(after if load else 0.0))
    assert time.seconds == pytest.approx(plan.step_ms)


@given(st.integers(2, 20), st.floats(0.1, 100), SECONDS, SECONDS, st.data())
def test_blocks_that_were_loaded_ahead_never_make_a_step_longer(
    blocks: int, masked: float, more: float, load: float, data: st.DataObject
) -> None:
    ahead = data.draw(st.integers(1, blocks))
    without = step_time(masked, [Reading(more, load)], blocks).seconds
    assert step_time(masked, [Reading(more, load, ahead)], blocks).seconds <= without * (1 + 1e-9)


def test_two_edits_share_a_loader() -> None:
    """Four blocks of 1 s; two edits' loads of 1 s a block, one after the other: 8 s, and the last block."""
    time = step_time(4.0, [Reading(1000.0, 4.0), Reading(1000.0, 4.0)], 4)
    assert time == StepTime(9.0, 8.0, (0, 0))


def test_an_edit_computes_in_full_what_is_waited_for_too_long() -> None:
    time = step_time(4.0, [Reading(2.0, 4000.0)], 4)
    assert time == StepTime(6.0, 0.0, (4,))


def test_nothing_is_waited_for_without_records_to_load() -> None:
    assert step_time(4.0, [], 4) == StepTime(4.0, 0.0, ())
    assert step_time(4.0, [Reading(2.0, 0.0, after=9.0)], 4).seconds == 4.0
