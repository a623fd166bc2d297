"""The loader, by what reaches the computation: the right payloads in time, whatever the buffers, users and errors."""

from __future__ import annotations

import pytest

from tests.cache.tiered import wait_until
from tests.instgenie.pipeline.loading import RECORD_BYTES, Source, a_loader, compute, is_right, load, release

pytestmark = pytest.mark.timeout(60)


# Order.


def test_blocks_come_in_block_order_over_all_steps_of_a_batch() -> None:
    log: list[tuple[str, int]] = []
    first, a, b = Source("first"), Source("a", log=log), Source("b", log=log)
    gate = first.gate(0)
    with a_loader() as loader:
        loads = [load(loader, first, range(1))]
        gate.wait()
        loads += [load(loader, a, range(2, 5)), load(loader, b, range(4))]
        gate.open()
        wait_until(lambda: loads[1].is_there(4))
        release(loads)
    assert log == [("b", 0), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 3), ("a", 4)]


def test_the_running_step_goes_before_what_was_queued_ahead_earlier() -> None:
    log: list[tuple[str, int]] = []
    ahead, begun, running = (Source(name, log=log) for name in ("ahead", "begun", "running"))
    gate = ahead.gate(0)
    with a_loader() as loader:
        loads = [load(loader, ahead, range(3), is_ahead=True)]
        gate.wait()
        loads += [load(loader, begun, range(4), is_ahead=True), load(loader, running, range(3))]
        loads[1].begin(range(2))
        gate.open()
        wait_until(lambda: all(loads[0].is_there(block) for block in range(3)))
        release(loads)
    assert log == [
        ("ahead", 0),
        *[("running", 0), ("begun", 0), ("running", 1), ("begun", 1), ("running", 2)],
        *[("ahead", 1), ("ahead", 2)],
    ]


def test_what_the_computation_waits_for_goes_first() -> None:
    log: list[tuple[str, int]] = []
    with a_loader(0) as loader:
        loads = [load(loader, Source("early", log=log), range(8)), load(loader, Source("late", log=log), range(6, 8))]
        compute(loads[1], range(6, 8), "late")
        compute(loads[0], range(1), "early")
        release(loads)
    assert log == [("late", 6), ("late", 7), ("early", 0)]


def test_what_a_cancelled_step_wanted_goes_behind_again() -> None:
    log: list[tuple[str, int]] = []
    first, shared, running = Source("first"), Source("shared", log=log), Source("running", log=log)
    gate = first.gate(0)
    with a_loader() as loader:
        blocker = load(loader, first, range(1))
        gate.wait()
        cancelled = load(loader, shared, range(2))
        ahead = load(loader, Source("shared"), range(2), is_ahead=True)
        other = load(loader, running, range(2))
        cancelled.release()
        assert loader.queued_bytes() == 3 * RECORD_BYTES
        gate.open()
        wait_until(lambda: ahead.is_there(1))
        release([blocker, ahead, other])
    assert log == [("running", 0), ("running", 1), ("shared", 0), ("shared", 1)]


def test_queued_bytes_are_those_that_running_steps_wait_for() -> None:
    a, b, ahead = Source("a"), Source("b"), Source("ahead")
    gate = a.gate(0)
    with a_loader() as loader:
        loads = [load(loader, a, range(4)), load(loader, b, range(3)), load(loader, ahead, range(8), is_ahead=True)]
        gate.wait()
        assert loader.queued_bytes() == 7 * RECORD_BYTES  # what is being read is not there yet
        assert loader.queued_bytes(besides=loads[0]) == 3 * RECORD_BYTES
        loads[1].release()
        assert loader.queued_bytes() == 4 * RECORD_BYTES
        gate.open()
        compute(loads[0], range(4))
        assert loader.queued_bytes() == 0
        release(loads)


# Sharing.


def test_one_load_serves_all_who_want_the_step() -> None:
    a, second = Source("a"), Source("a")
    with a_loader() as loader:
        loads = [load(loader, a, range(8)), load(loader, second, range(8))]
        assert second.is_closed
        assert second.reads == []
        for block in range(8):
            payloads = [one.payload(block) for one in loads]
            assert payloads[0].data_ptr() == payloads[1].data_ptr()
            assert is_right(payloads[0], "a", block)
            for one in loads:
                one.computed(block)
        loads[0].release()
        assert not a.is_closed
        loads[1].release()
        assert a.is_closed
    assert a.log == [("a", block) for block in range(8)]


def test_the_next_step_keeps_the_blocks_of_the_running_one_where_it_wants_the_same() -> None:
    a = Source("a")
    with a_loader() as loader:
        running = load(loader, a, range(8))
        compute(running, range(4))
        ahead = load(loader, Source("a"), range(2, 8), is_ahead=True)
        compute(running, range(4, 8))
        running.release()
        wait_until(lambda: all(ahead.is_there(block) for block in range(2, 8)))
        ahead.begin()
        compute(ahead, range(2, 8))
        ahead.release()
        assert loader.held_bytes == 0
    # 2 and 3 had been given back; the others never were.
    assert sorted(a.log) == [("a", block) for block in sorted([*range(8), 2, 3])]
    assert a.is_closed


def test_more_is_wanted_later() -> None:
    a = Source("a")
    with a_loader() as loader:
        one = load(loader, a, range(4, 8))
        compute(one, range(4, 6))
        one.want(range(2, 7))
        compute(one, range(2, 8))
        assert loader.held_bytes == 0
        one.release()
    assert a.is_closed


def test_beginning_may_narrow_and_widen_what_is_wanted() -> None:
    a = Source("a")
    with a_loader() as loader:
        one = load(loader, a, range(3, 8), is_ahead=True)
        wait_until(lambda: one.is_there(7))
        one.begin(range(2, 5))
        assert not one.is_there(7)
        compute(one, range(2, 5))
        assert loader.held_bytes == 0
        one.begin(range(4, 6))
        compute(one, range(4, 6))
        one.release()
    assert [block for _, block in a.log] == [3, 4, 5, 6, 7, 2, 4, 5]


# Buffers.


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("budget_blocks", [0, 0.5, 1, 2.5, 4, 100])
def test_a_batch_in_lockstep_gets_everything_whatever_the_budget(budget_blocks: float, steps: int) -> None:
    names = "abcde"[:steps]
    sources = [Source(name) for name in names]
    held: list[int] = []
    with a_loader(budget_blocks) as loader:
        for source in sources:
            source.on_read = lambda: held.append(loader.held_bytes)
        # Each has a full prefix of its own.
        loads = {source.name: load(loader, source, range(n, 8)) for n, source in enumerate(sources)}
        for block in range(8):
            using = [name for n, name in enumerate(names) if block >= n]
            assert all(is_right(loads[name].payload(block), name, block) for name in using)
            for name in using:
                loads[name].computed(block)
        assert loader.held_bytes == 0
        release(loads.values())
    assert max(held) <= budget_blocks * RECORD_BYTES + steps * RECORD_BYTES
    if budget_blocks >= steps:
        assert max(held) <= budget_blocks * RECORD_BYTES
    assert all(source.log == [(source.name, block) for block in range(n, 8)] for n, source in enumerate(sources))


def test_small_records_keep_to_the_budget_too() -> None:
    a, held = Source("a"), list[int]()
    with a_loader(1) as loader:
        a.on_read = lambda: held.append(loader.held_bytes)
        one = loader.load("a", a, range(8), 100, RECORD_BYTES // 3)  # many are read at a time where there is room
        compute(one, range(8))
        one.release()
    assert max(held) <= RECORD_BYTES
    assert a.reads[0] == range(3)


def test_what_is_loaded_ahead_does_not_keep_the_running_step_waiting_for_room() -> None:
    queued, running = Source("queued"), Source("running")
    held: list[int] = []
    with a_loader(4) as loader:
        ahead = load(loader, queued, range(8), is_ahead=True)
        wait_until(lambda: loader.held_bytes == 4 * RECORD_BYTES)
        running.on_read = lambda: held.append(loader.held_bytes)
        one = load(loader, running, range(8))
        wait_until(lambda: one.is_there(3))  # as many as there would be without the other
        assert not ahead.is_there(3)
        compute(one, range(8), "running")
        one.release()
        ahead.begin()
        compute(ahead, range(8), "queued")
        ahead.release()
        assert loader.held_bytes == 0
    assert max(held) == 4 * RECORD_BYTES
    assert running.log == [("running", block) for block in range(8)]


@pytest.mark.parametrize("budget_blocks", [0, 1, 3])
def test_the_next_step_may_want_the_same_with_less_room_than_a_step_takes(budget_blocks: float) -> None:
    a, held = Source("a"), list[int]()
    with a_loader(budget_blocks) as loader:
        a.on_read = lambda: held.append(loader.held_bytes)
        running = load(loader, a, range(8))
        ahead = load(loader, Source("a"), range(8), is_ahead=True)
        compute(running, range(8))
        running.release()
        # Of what is to be loaded ahead, that which is needed first.
        wait_until(lambda: [ahead.is_there(block) for block in range(8)] == [n < budget_blocks for n in range(8)])
        ahead.begin()
        compute(ahead, range(8))
        ahead.release()
        assert loader.held_bytes == 0
    assert max(held) <= max(1, budget_blocks) * RECORD_BYTES


def test_what_is_kept_for_the_next_step_does_not_go_beyond_the_budget() -> None:
    with a_loader(0) as loader:
        running = load(loader, Source("a"), range(2))
        ahead = load(loader, Source("a"), range(1, 2), is_ahead=True)
        compute(running, range(2))
        assert loader.held_bytes == 0
        compute(ahead, range(1, 2))
        release([running, ahead])


def test_a_step_that_is_computed_with_is_running() -> None:
    with a_loader(0) as loader:
        one = load(loader, Source("a"), range(8), is_ahead=True)
        assert loader.queued_bytes() == 0
        compute(one, range(1))
        assert loader.queued_bytes() == 7 * RECORD_BYTES
        one.release()


@pytest.mark.parametrize("budget_blocks", [0, 1, 3])
def test_earlier_blocks_may_be_wanted_when_later_ones_have_all_the_room(budget_blocks: float) -> None:
    a, held = Source("a"), list[int]()
    with a_loader(budget_blocks) as loader:
        a.on_read = lambda: held.append(loader.held_bytes)
        one = load(loader, a, range(4, 8), is_ahead=True)
        wait_until(lambda: loader.held_bytes == budget_blocks * RECORD_BYTES)
        one.begin(range(8))
        compute(one, range(8))
        one.release()
        assert loader.held_bytes == 0
    assert max(held) <= (budget_blocks + 1) * RECORD_BYTES
    assert len(a.log) == 8  # what a running step needs is not given up


def test_two_blocks_of_a_step_may_be_in_use_at_a_time() -> None:
    a = Source("a")
    with a_loader(0) as loader:
        one = load(loader, a, range(4))
        payloads = [one.payload(block) for block in range(4)]
        assert all(is_right(payload, "a", block) for block, payload in enumerate(payloads))
        assert loader.held_bytes == one.held_bytes == 4 * RECORD_BYTES
        one.release()
        assert loader.held_bytes == 0


def test_records_that_are_used_where_they_are_take_no_buffers() -> None:
    a = Source("a")
    with a_loader(0) as loader:
        one = loader.load("a", a, range(8), RECORD_BYTES, 0)
        wait_until(lambda: one.is_there(7))
        assert loader.held_bytes == 0
        compute(one, range(8))
        one.release()


# Users that go.


def test_whoever_goes_gives_everything_back_at_any_time() -> None:
    a = Source("a")
    gate = a.gate(3)
    with a_loader(6) as loader:
        loads = [load(loader, a, range(8)), load(loader, Source("a"), range(8), is_ahead=True)]
        gate.wait()  # 0, 1, 2 are there, 3 is being read, the others are queued
        loads[0].release()
        loads[0].release()
        assert not a.is_closed
        loads[1].release()
        assert not a.is_closed  # somebody reads it still
        gate.open()
        assert a.is_closed_soon()
        wait_until(lambda: loader.held_bytes == 0)
    assert [block for _, block in a.log] == [0, 1, 2, 3]


def test_a_step_that_was_released_does_not_touch_what_others_want() -> None:
    a = Source("a")
    with a_loader() as loader:
        loads = [load(loader, a, range(4)), load(loader, Source("a"), range(4))]
        loads[0].payload(0)
        loads[0].release()
        loads[0].computed(0)
        loads[0].computed(1)
        compute(loads[1], range(4))
        loads[1].release()
        assert loader.held_bytes == 0
    assert len(a.log) == 4


def test_a_step_can_be_loaded_again_while_the_last_one_is_still_being_read() -> None:
    old, new = Source("a"), Source("a")
    gate = old.gate(0)
    with a_loader() as loader:
        load(loader, old, range(4)).release()
        one = load(loader, new, range(4))
        gate.open()
        compute(one, range(4))
        one.release()
    assert old.is_closed
    assert new.is_closed
    assert len(new.log) == 4


def test_a_block_may_be_dropped_and_wanted_again_while_it_is_read() -> None:
    a = Source("a")
    gate = a.gate(1)
    with a_loader() as loader:
        one = load(loader, a, range(3))
        gate.wait()
        one.computed(1)
        one.want(range(1, 2))
        gate.open()
        compute(one, range(3))
        one.release()
        assert loader.held_bytes == 0
    assert len(a.log) == 3
