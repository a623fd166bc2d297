"""One step played through: against examples by hand, and rules that hold for all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instgenie.pipeline.planner import IDLE, BlockCosts, LoaderState
from instgenie.pipeline.timeline import Timeline, timeline
from tests.instgenie.pipeline.costs import block_costs, equal_blocks, loader_states

MASKED, FULL = False, True


def test_masked_blocks_wait_for_their_records() -> None:
    costs = BlockCosts(masked_ms=(1, 1, 5), full_ms=(9, 9, 9), load_ms=(4, 4, 4), load_bytes=(1, 1, 1))
    assert timeline(costs, IDLE, [MASKED, MASKED, MASKED]) == Timeline(
        step_ms=17, stall_ms=10, loader_end_ms=12, start_ms=(4, 8, 12), wait_ms=(4, 3, 3)
    )


def test_records_of_later_blocks_come_while_full_ones_are_computed() -> None:
    costs = BlockCosts(masked_ms=(1, 1, 5), full_ms=(9, 9, 9), load_ms=(4, 4, 4), load_bytes=(1, 1, 1))
    assert timeline(costs, IDLE, [FULL, MASKED, MASKED]) == Timeline(
        step_ms=15, stall_ms=0, loader_end_ms=8, start_ms=(0, 9, 10), wait_ms=(0, 0, 0)
    )


def test_busy_loader_begins_later_and_records_on_the_device_do_not_wait() -> None:
    costs = BlockCosts(masked_ms=(1, 1), full_ms=(9, 9), load_ms=(0, 2), load_bytes=(0, 1))
    assert timeline(costs, LoaderState(busy_ms=7), [MASKED, MASKED]) == Timeline(
        step_ms=10, stall_ms=8, loader_end_ms=9, start_ms=(0, 9), wait_ms=(0, 8)
    )


def test_loads_wait_for_room_in_the_buffer() -> None:
    """Two records of three fit: the third is loaded from 6 on, when the first block was computed."""
    costs = equal_blocks(3, masked_ms=5, full_ms=9, load_ms=1, load_bytes=10)
    assert timeline(costs, LoaderState(buffer_bytes=20), [MASKED, MASKED, MASKED]).loader_end_ms == 7
    assert timeline(costs, LoaderState(buffer_bytes=30), [MASKED, MASKED, MASKED]).loader_end_ms == 3
    assert timeline(costs, LoaderState(buffer_bytes=10), [MASKED, MASKED, MASKED]) == Timeline(
        step_ms=18, stall_ms=3, loader_end_ms=13, start_ms=(1, 7, 13), wait_ms=(1, 1, 1)
    )


def test_records_loaded_ahead_hold_their_bytes_until_they_were_used() -> None:
    costs = BlockCosts(masked_ms=(5, 5), full_ms=(9, 9), load_ms=(0, 1), load_bytes=(10, 10))
    assert timeline(costs, LoaderState(buffer_bytes=10), [MASKED, MASKED]).start_ms == (0, 6)
    assert timeline(costs, LoaderState(buffer_bytes=20), [MASKED, MASKED]).start_ms == (0, 5)
    assert timeline(costs, LoaderState(buffer_bytes=10), [FULL, MASKED]).loader_end_ms == 1  # a full block uses none


def test_record_that_never_fits() -> None:
    costs = BlockCosts(masked_ms=(1, 1), full_ms=(9, 9), load_ms=(1, 1), load_bytes=(10, 30))
    with pytest.raises(ValueError, match="record of block 1 never finds room: 30 bytes in a buffer of 20 bytes"):
        timeline(costs, LoaderState(buffer_bytes=20), [MASKED, MASKED])
    assert timeline(costs, LoaderState(buffer_bytes=20), [MASKED, FULL]).step_ms == 11


def test_record_that_one_loaded_ahead_leaves_no_room_for() -> None:
    costs = BlockCosts(masked_ms=(1, 1), full_ms=(9, 9), load_ms=(1, 0), load_bytes=(10, 15))
    with pytest.raises(ValueError, match="record of block 0 never finds room"):
        timeline(costs, LoaderState(buffer_bytes=20), [MASKED, MASKED])


def test_choice_is_of_every_block() -> None:
    with pytest.raises(ValueError, match="is_full has 2 blocks, the costs 3"):
        timeline(equal_blocks(3, 1, 1, 1), IDLE, [FULL, FULL])


@settings(deadline=None)
@given(block_costs(), loader_states, st.data())
def test_step_is_compute_and_waiting(costs: BlockCosts, loader: LoaderState, data: st.DataObject) -> None:
    is_full = data.draw(st.lists(st.booleans(), min_size=len(costs), max_size=len(costs)))
    try:
        played = timeline(costs, loader, is_full)
    except ValueError:
        assert loader.buffer_bytes is not None
        assert any(sum(costs.load_bytes) > loader.buffer_bytes for full in is_full if not full)
        return
    block_ms = [f if full else m for f, m, full in zip(costs.full_ms, costs.masked_ms, is_full, strict=True)]
    ends_ms = [start + ms for start, ms in zip(played.start_ms, block_ms, strict=True)]
    assert played.step_ms == (ends_ms[-1] if ends_ms else 0)
    assert played.step_ms == pytest.approx(sum(block_ms) + played.stall_ms)
    assert all(wait >= 0 for wait in played.wait_ms)
    for start, wait, before in zip(played.start_ms, played.wait_ms, [0.0, *ends_ms], strict=False):
        assert start == pytest.approx(before + wait)
    for wait, full, load in zip(played.wait_ms, is_full, costs.load_ms, strict=True):
        assert wait == 0 or (not full and load > 0)
    loaded_ms = sum(load for load, full in zip(costs.load_ms, is_full, strict=True) if not full)
    assert played.loader_end_ms >= (loader.busy_ms + loaded_ms) * (1 - 1e-9)
