"""An edit that ends every replica that has it, and those beside it."""

from __future__ import annotations

import asyncio

import pytest

from instgenie.errors import ReplicaLostError
from instgenie.orders import EditOutcome
from instgenie_server.api_error import ApiError
from instgenie_server.edit_service import EditService
from tests.server.fleet.crew import Crew, crew, order

INNOCENT = [f"innocent {number}" for number in range(7)]


class NoJobs:
    def queued_seconds(self) -> float:
        return 0.0


async def edited(fleet: Crew, order_id: str) -> EditOutcome:
    """As a client's edit is: begun again when its replica goes, a few times."""
    service = EditService(fleet.fleet, NoJobs(), 1e6, fleet.fleet.presence)
    with service.room(1) as room:
        (outcome,) = await service.run([order(order_id)], room, 60)
    return outcome


async def working(fleet: Crew) -> None:
    """Where the poison is, the replica ends with all that it has, and another one is started; elsewhere edits end."""
    while True:
        for place in fleet.places:
            edits = place.link.running_edits()
            if any(edit.order.id == "poison" for edit in edits):
                await place.kill()
                await place.run()
            else:
                for edit in edits:
                    edit.succeed()
        await asyncio.sleep(0)


@pytest.mark.parametrize("replicas", [1, 2])
async def test_the_innocent_get_through(replicas: int) -> None:
    async with crew(replicas) as fleet:
        edits = [asyncio.create_task(edited(fleet, order_id)) for order_id in (*INNOCENT, "poison")]
        for order_id in (*INNOCENT, "poison"):
            await fleet.begun(order_id)
        work = asyncio.create_task(working(fleet))
        try:
            *innocent, poison = await asyncio.gather(*edits, return_exceptions=True)
        finally:
            work.cancel()
        assert [outcome for outcome in innocent if not isinstance(outcome, EditOutcome)] == []
        assert isinstance(poison, ApiError)
        assert "ended 3 times" in poison.message


async def test_two_that_may_be_poison_run_at_the_same_time_on_two_replicas() -> None:
    async with crew(2) as fleet:
        for _ in range(2):
            edits = [fleet.edit("a"), fleet.edit("b", template=1)]
            for order_id in "ab":
                name, _ = await fleet.begun(order_id)
                await fleet[name].kill()
                await fleet[name].run()
            await asyncio.gather(*edits, return_exceptions=True)
        edits = [fleet.edit(order_id) for order_id in "ab"]  # of one template, which is at home on one of them
        (first, _), (second, _) = [await fleet.begun(order_id) for order_id in "ab"]
        assert {first, second} == {1, 2}
        for name in (first, second):
            fleet[name].link.let_go()
        await asyncio.gather(*edits, return_exceptions=True)


async def test_one_that_may_be_poison_waits_for_another_one_on_the_only_replica() -> None:
    async with crew(2) as fleet:
        for order_id in "ab":
            for _ in range(2):
                editing = fleet.edit(order_id)
                name, _ = await fleet.begun(order_id)
                await fleet[name].kill()
                await fleet[name].run()
                with pytest.raises(ReplicaLostError):
                    await editing
        await fleet[2].kill()
        edits = [fleet.edit(order_id) for order_id in "abc"]
        for order_id in "ac":
            await fleet.begun(order_id)
        assert {edit.order.id for edit in fleet[1].link.running_edits()} == {"a", "c"}
        await fleet[2].run()
        assert (await fleet.begun("b"))[0] == 2
        for name in (1, 2):
            fleet[name].link.let_go()
        await asyncio.gather(*edits, return_exceptions=True)


async def test_the_reason_says_how_often() -> None:
    async with crew(2) as fleet:
        for reason in ("ended before", "ended 2 times before", "ended 3 times before"):
            editing = asyncio.create_task(fleet.fleet.edit(order("a"), lambda _: None))
            name, _ = await fleet.begun("a")
            await fleet[name].kill()
            with pytest.raises(ReplicaLostError, match=reason):
                await editing
            await fleet[name].run()
