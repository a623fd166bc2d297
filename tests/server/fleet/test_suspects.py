"""Who has to wait for whom after replicas ended."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest

from instgenie_server.fleet.member import HERE, Member
from instgenie_server.fleet.seat import Seat
from instgenie_server.fleet.suspects import SUSPECT_LOSSES, Suspects
from instgenie_server.replica_process.supervised_replica import SupervisedReplica
from tests.server.replica_process.fake_host import FakeHost


class Bench:
    """Seats, and the edits that sit there: `order at seat`, in the order in which they came."""

    def __init__(self, *seats: str, suspects: str = "") -> None:
        self.suspects, self.came, self.end = Suspects(), list[str](), asyncio.Event()
        self.free = [Seat(Member(seat, HERE, SupervisedReplica(host := FakeHost(), host.connect))) for seat in seats]
        for order_id in suspects:
            for _ in range(SUSPECT_LOSSES):
                self.suspects.lost(order_id)

    def choose(self, taken: Collection[str]) -> Seat | None:
        if not self.free:
            raise LookupError
        return next((seat for seat in self.free if seat.id not in taken), None)

    async def run(self, order_id: str) -> None:
        async with self.suspects.seat(order_id, self.choose) as seat:
            self.came.append(f"{order_id} at {seat.id}")
            await self.end.wait()


async def begun(*orders: asyncio.Task[None]) -> None:
    """Let all go as far as they can."""
    for _ in range(2 * len(orders)):
        await asyncio.sleep(0)


async def test_suspects_share_no_replica() -> None:
    bench = Bench("1", "2", suspects="abc")
    bench.suspects.lost("d")
    tasks = [asyncio.create_task(bench.run(order_id)) for order_id in "abcde"]
    await begun(*tasks)
    assert bench.came == ["a at 1", "b at 2", "d at 1", "e at 1"]
    tasks[1].cancel()
    await begun(*tasks)
    assert bench.came[4:] == ["c at 2"]
    bench.end.set()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_that_waits_goes_where_a_replica_comes() -> None:
    bench = Bench("1", suspects="ab")
    tasks = [asyncio.create_task(bench.run(order_id)) for order_id in "ab"]
    await begun(*tasks)
    assert bench.came == ["a at 1"]
    bench.free += Bench("2").free
    bench.suspects.look_again()
    await begun(*tasks)
    assert bench.came == ["a at 1", "b at 2"]
    bench.end.set()
    await asyncio.gather(*tasks)


async def test_one_that_waits_is_told_that_nobody_is_left() -> None:
    bench = Bench("1", suspects="ab")
    tasks = [asyncio.create_task(bench.run(order_id)) for order_id in "ab"]
    await begun(*tasks)
    bench.free.clear()
    bench.end.set()
    with pytest.raises(LookupError):
        await tasks[1]
    await tasks[0]


def test_losses_are_counted_until_the_order_ends() -> None:
    suspects = Suspects(max_orders=2)
    assert [suspects.lost("a") for _ in range(3)] == [1, 2, 3]
    suspects.ended("a")
    assert suspects.lost("a") == 1
    suspects.lost("b")
    suspects.lost("a")
    suspects.lost("c")  # b is forgotten
    assert [suspects.lost(order_id) for order_id in ("a", "b")] == [3, 1]
