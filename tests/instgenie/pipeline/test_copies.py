"""Payloads on their way to the device, and what waiting for them costs."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from instgenie.pipeline.copies import Copies, Copy
from instgenie_cache import CacheError
from tests.instgenie.pipeline.loading import CPU, Source, a_loader, load

CUDA = torch.device("cuda")


def doubled(payload: Tensor) -> Tensor:
    """What a codec may do to a payload."""
    return payload * 2


# On a CPU.


def test_payloads_in_memory_are_used_where_they_are() -> None:
    copies, payload = Copies(CPU), torch.arange(8, dtype=torch.uint8)
    copy = copies.copy(payload)
    assert copy.payload.data_ptr() == payload.data_ptr()
    assert copy.done is None
    assert copy.took_ms() == 0
    assert copies.mark() is None
    copies.drain()


def test_what_is_done_on_the_way_is_done_before_the_payload_is_there() -> None:
    copies, payload = Copies(CPU, doubled), torch.arange(8, dtype=torch.uint8)
    assert Copies(CPU).is_in_place
    assert not copies.is_in_place
    assert copies.copy(payload).payload.tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    assert payload[1] == 1


def test_the_time_until_a_copy_is_there_is_lost() -> None:
    times = iter([1.0, 1.25])
    copies, copy = Copies(CPU, clock=lambda: next(times)), Copy(torch.zeros(1))
    payload, lost_ms = copies.join(lambda: copy)
    assert payload is copy.payload
    assert lost_ms() == lost_ms() == 250


def test_a_copy_that_never_comes_is_an_error_of_whoever_waits() -> None:
    def fails() -> Copy:
        raise CacheError("lost")

    with pytest.raises(CacheError, match="lost"):
        Copies(CPU).join(fails)


# On a CUDA device.

SLEEP_CYCLES = 400_000_000  # some 0.2 s
BYTES = 1 << 20


def host(value: int) -> Tensor:
    """A payload in page-locked memory, which is copied without the thread's waiting for it."""
    return torch.full((BYTES,), value, dtype=torch.uint8).pin_memory()


def total(payload: Tensor) -> Tensor:
    """The sum of a payload, which the computation has yet to work out."""
    return payload.sum(dtype=torch.int64)


def begun(copy: Copy) -> Callable[[], Copy]:
    """A copy that nobody has to wait for, but the device."""
    return lambda: copy


@pytest.fixture
def warm() -> None:
    """Whatever a process does for the first time is done, which may wait for all streams."""
    copies = Copies(CUDA, doubled)
    payload, _ = copies.join(begun(copies.copy(host(1))))
    torch.cuda._sleep(1)
    assert int(total(payload)) == 2 * BYTES


@pytest.mark.gpu
@pytest.mark.usefixtures("warm")
def test_values_are_right_however_late_the_computation_is() -> None:
    copies = Copies(CUDA, doubled)
    payloads = [host(value) for value in range(1, 9)]
    totals = []
    for number, payload in enumerate(payloads):
        if number % 3 == 0:
            torch.cuda._sleep(SLEEP_CYCLES)
        there, _ = copies.join(begun(copies.copy(payload)))
        totals.append(total(there))
        del there  # others may be copied there, once the computation is through with it
    assert [int(value) for value in totals] == [2 * value * BYTES for value in range(1, 9)]


@pytest.mark.gpu
@pytest.mark.usefixtures("warm")
def test_memory_is_not_used_again_while_the_computation_has_it() -> None:
    copies = Copies(CUDA)
    there, _ = copies.join(begun(copies.copy(host(1))))
    torch.cuda._sleep(SLEEP_CYCLES)
    result = total(there)
    used = copies.mark()
    assert used is not None
    assert not used.query()
    address = there.data_ptr()
    del there
    assert copies.copy(host(2)).payload.data_ptr() != address
    assert int(result) == BYTES
    assert used.query()


@pytest.mark.gpu
@pytest.mark.usefixtures("warm")
def test_a_late_copy_is_waited_for_and_that_is_measured() -> None:
    def late(payload: Tensor) -> Tensor:
        torch.cuda._sleep(SLEEP_CYCLES)
        return payload

    slow, copies = Copies(CUDA, late), Copies(CUDA)
    copy = slow.copy(host(3))
    payload, lost_ms = slow.join(begun(copy))
    _, again_ms = slow.join(begun(copy))
    _, other_ms = copies.join(begun(copies.copy(host(4))))
    assert int(total(payload)) == 3 * BYTES
    assert lost_ms() > 20
    assert copy.took_ms() > 20
    assert again_ms() < 5
    assert other_ms() < 5


@pytest.mark.gpu
@pytest.mark.usefixtures("warm")
def test_what_the_thread_waits_for_is_lost_only_where_the_device_has_nothing_to_do() -> None:
    copies, payload = Copies(CUDA), host(3)

    def slowly() -> Copy:
        threading.Event().wait(0.05)
        return copies.copy(payload)

    _, idle_ms = copies.join(slowly)
    torch.cuda._sleep(SLEEP_CYCLES)
    _, busy_ms = copies.join(slowly)
    assert idle_ms() > 40
    assert busy_ms() < 5


@pytest.mark.gpu
@pytest.mark.usefixtures("warm")
def test_the_loader_brings_a_step_through_a_small_buffer() -> None:
    a = Source("a")
    a.memory = [host(block) for block in range(8)]
    with a_loader(2, Copies(CUDA)) as loader:
        one = load(loader, a, range(8))
        totals = []
        for block in range(8):
            torch.cuda._sleep(SLEEP_CYCLES // 20)
            totals.append(total(one.payload(block)))
            one.computed(block)
        one.release()
        assert [int(value) for value in totals] == [block * BYTES for block in range(8)]
        assert set(one.stalls_ms()) == set(range(8))
        assert loader.held_bytes == 0
        assert a.is_closed_soon()
