"""The loader beside a device that gets to its work in its own time: buffers, sources and waiting."""

from __future__ import annotations

import pytest
from torch import Tensor

from instgenie.pipeline.copies import Copy
from instgenie_cache import CacheError
from tests.cache.tiered import wait_until
from tests.instgenie.pipeline.loading import (
    RECORD_BYTES,
    DeviceCopies,
    DeviceWork,
    Source,
    Waiting,
    a_loader,
    is_right,
    load,
)

pytestmark = pytest.mark.timeout(60)


def test_a_source_keeps_its_memory_until_the_device_has_copied_it() -> None:
    a, device = Source("a"), DeviceCopies(is_held=True)
    with a_loader(copies=device) as loader:
        one = load(loader, a, range(3))
        payloads = [one.payload(block) for block in range(3)]
        one.release()  # the thread does not wait for the device
        assert not a.is_closed
        device.finish()
        assert a.is_closed_soon()
        assert all(is_right(payload, "a", block) for block, payload in enumerate(payloads))


def test_what_was_copied_long_ago_is_closed_at_once() -> None:
    a, b, device = Source("a"), Source("b"), DeviceCopies(is_held=True)
    with a_loader(copies=device) as loader:
        one = load(loader, a, range(3))
        wait_until(lambda: one.is_there(2))
        device.finish()
        other = load(loader, b, range(3), is_ahead=True)
        wait_until(lambda: other.is_there(2))  # which the device has yet to copy
        one.release()
        assert a.is_closed
        other.release()
        assert not b.is_closed
        device.finish()
    assert b.is_closed


def test_buffers_are_given_back_once_the_device_has_computed_with_them() -> None:
    a, device = Source("a"), DeviceCopies(is_held=True)
    held: list[int] = []
    with a_loader(1, device) as loader:
        a.on_read = lambda: held.append(loader.held_bytes)
        one = load(loader, a, range(4))
        one.payload(0)
        one.computed(0)
        assert loader.held_bytes == RECORD_BYTES
        waiting = Waiting(lambda: one.payload(1))  # the thread is ahead of the device: that is no reason to hold more
        for work in (device.copied[0], *device.launched):
            work.finish()
        assert waiting.end() is None
        one.computed(1)
        one.release()
        device.finish()
        assert loader.held_bytes == 0  # without anything else being asked of the loader
    assert held == [RECORD_BYTES] * 2


@pytest.mark.parametrize("budget_blocks", [0, 1, 2.5, 100])
def test_a_batch_gets_everything_from_a_device_that_moves_when_it_is_waited_for(budget_blocks: float) -> None:
    sources = [Source(name) for name in "ab"]
    device, held = DeviceCopies(), list[int]()
    with a_loader(budget_blocks, device) as loader:
        for source in sources:
            source.on_read = lambda: held.append(loader.held_bytes)
        loads = [load(loader, source, range(8)) for source in sources]
        payloads = []
        for block in range(8):
            payloads += [(one.payload(block), source.name, block) for one, source in zip(loads, sources, strict=True)]
            for one in loads:
                one.computed(block)
        for one in loads:
            one.release()
        device.finish()
        assert loader.held_bytes == 0
        assert all(is_right(*payload) for payload in payloads)
    assert max(held) <= (budget_blocks + 2) * RECORD_BYTES
    assert all(source.is_closed for source in sources)


def test_the_next_step_may_want_the_same_with_less_room_than_a_step_takes() -> None:
    a, device = Source("a"), DeviceCopies()
    held: list[int] = []
    with a_loader(2, device) as loader:
        a.on_read = lambda: held.append(loader.held_bytes)
        one, ahead = load(loader, a, range(6)), load(loader, Source("a"), range(6), is_ahead=True)
        payloads = []
        for user in (one, ahead):
            for block in range(6):
                payloads.append(user.payload(block))
                user.computed(block)
            user.release()
        device.finish()
        assert loader.held_bytes == 0
        assert all(is_right(payload, "a", n % 6) for n, payload in enumerate(payloads))
    assert max(held) <= 3 * RECORD_BYTES  # later ones may have been left of what was loaded ahead


def test_a_copy_that_fails_is_an_error_of_the_step() -> None:
    class Failing(DeviceCopies):
        def copy(self, payload: Tensor) -> Copy:
            raise RuntimeError("out of memory")

    a = Source("a")
    with a_loader(copies=Failing()) as loader:
        one = load(loader, a, range(4))
        with pytest.raises(CacheError, match="out of memory"):
            one.payload(3)
        one.release()
        assert loader.held_bytes == 0
    assert a.is_closed


def test_a_device_that_fails_leaves_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> None:
        raise RuntimeError("an illegal memory access was encountered")

    class Failing(DeviceCopies):
        def mark(self) -> DeviceWork:
            return DeviceWork(fails)

    a = Source("a")
    with caplog.at_level("ERROR"), a_loader(1, Failing()) as loader:
        one = load(loader, a, range(4))
        one.payload(0)
        one.computed(0)
        with pytest.raises(CacheError, match="closed"):
            one.payload(1)
        one.release()
    assert [record.message for record in caplog.records] == ["nothing is loaded any more"]
    assert a.is_closed
