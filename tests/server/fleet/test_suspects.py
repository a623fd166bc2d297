"""Who has to wait for whom after replicas ended."""

from __future__ import annotations

import asyncio

from instgenie_server.fleet.suspects import SUSPECT_LOSSES, Suspects


async def running(suspects: Suspects, order_id: str, end: asyncio.Event) -> None:
    async with suspects.turn(order_id):
        begun.append(order_id)
        await end.wait()


begun: list[str] = []


async def test_suspects_run_one_at_a_time() -> None:
    suspects, end = Suspects(), asyncio.Event()
    begun.clear()
    for order_id in ("a", "b"):
        for _ in range(SUSPECT_LOSSES):
            suspects.lost(order_id)
    suspects.lost("c")
    tasks = [asyncio.create_task(running(suspects, order_id, end)) for order_id in ("a", "b", "c", "d")]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert begun == ["a", "c", "d"]
    end.set()
    await asyncio.gather(*tasks)
    assert begun[-1] == "b"


async def test_one_that_is_cancelled_gives_its_turn_away() -> None:
    suspects, end = Suspects(), asyncio.Event()
    begun.clear()
    for order_id in ("a", "b"):
        for _ in range(SUSPECT_LOSSES):
            suspects.lost(order_id)
    first, second = (asyncio.create_task(running(suspects, order_id, end)) for order_id in ("a", "b"))
    await asyncio.sleep(0)
    first.cancel()
    end.set()
    await second
    assert begun == ["a", "b"]


def test_losses_are_counted_until_the_order_ends() -> None:
    suspects = Suspects(max_orders=2)
    assert [suspects.lost("a") for _ in range(3)] == [1, 2, 3]
    suspects.ended("a")
    assert suspects.lost("a") == 1
    suspects.lost("b")
    suspects.lost("a")
    suspects.lost("c")  # b is forgotten
    assert [suspects.lost(order_id) for order_id in ("a", "b")] == [3, 1]
