"""Memory outside the arena: what is loaded waits, what is kept is refused, and one step always passes."""

from __future__ import annotations

import asyncio

import pytest

from instgenie_cache import StoreFullError
from instgenie_cache.service.private_memory import PrivateMemory


async def test_loads_beyond_the_limit_wait_in_order() -> None:
    memory = PrivateMemory(100)
    order: list[int] = []
    peak = 0
    may_end = asyncio.Event()

    async def load(num_bytes: int) -> None:
        nonlocal peak
        async with memory.loading(num_bytes):
            order.append(num_bytes)
            peak = max(peak, memory.loading_bytes)
            await may_end.wait()

    loads = [asyncio.ensure_future(load(num_bytes)) for num_bytes in (60, 30, 50, 5)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert order == [60, 30]  # 5 would fit, and does not overtake
    may_end.set()
    await asyncio.gather(*loads)
    assert (order, peak, memory.loading_bytes) == ([60, 30, 50, 5], 90, 0)


async def test_a_step_beyond_the_limit_is_loaded_alone() -> None:
    memory = PrivateMemory(10)
    async with memory.loading(1000):
        second = asyncio.ensure_future(memory.loading(1).__aenter__())
        await asyncio.sleep(0)
        assert not second.done()
    await second
    assert memory.loading_bytes == 1


async def test_one_that_is_cancelled_does_not_keep_others_waiting() -> None:
    memory = PrivateMemory(10)
    async with memory.loading(10):
        second = asyncio.ensure_future(memory.loading(10).__aenter__())
        await asyncio.sleep(0)
        second.cancel()
    async with asyncio.timeout(1), memory.loading(10):
        assert memory.loading_bytes == 10


def test_what_is_kept_is_bounded() -> None:
    memory = PrivateMemory(10)
    memory.take(1000)
    with pytest.raises(StoreFullError, match="of 10 bytes outside it 1000 are"):
        memory.take(1)
    memory.give(1000)
    memory.take(1)
