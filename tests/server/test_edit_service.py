"""Edits whose caller waits: what they count as, and how their failures are told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from instgenie.errors import InvalidInputError, MaskError, ReplicaError, TemplateNotCachedError
from instgenie.orders import EditOrder, EditOutcome, Pixels, StepReport
from instgenie_server.api_error import ApiError
from instgenie_server.edit_service import EditService, Room
from tests.server.routes.scripted_replica import ScriptedReplica

ORDER = EditOrder(id="a", picture=Pixels(1, 1, "RGB", b"abc"), mask=b"\1", prompt="", seed=1)
ORDERS = [ORDER, replace(ORDER, seed=2), replace(ORDER, seed=3)]


class Jobs:
    """So much work of jobs waits."""

    seconds = 0.0

    def queued_seconds(self) -> float:
        return self.seconds


async def in_room(service: EditService, orders: Sequence[EditOrder], deadline: float = 60) -> list[EditOutcome]:
    with service.room(0.1, len(orders)) as room:
        return await service.run(orders, room, deadline)


async def test_what_waits_is_what_is_not_done() -> None:
    replica, jobs = ScriptedReplica(seconds=2), Jobs()
    service = EditService(replica, jobs, limit_seconds=9)
    jobs.seconds = 1
    with service.room(2, 3) as room:
        await watch(service, room, replica)
    assert service.waiting_seconds() == 1


async def watch(service: EditService, room: Room, replica: ScriptedReplica) -> None:
    told: list[tuple[int, int]] = []
    running = asyncio.create_task(service.run(ORDERS, room, 60, lambda number, step: told.append((number, step.step))))
    for number, order in enumerate(ORDERS):
        edit = await replica.edits.get()
        assert edit.order is order
        assert service.waiting_seconds() == 1 + 2 * (3 - number)
        edit.report(StepReport(number + 1, 4))
        edit.succeed()
    assert len(await running) == 3
    assert told == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize("end", ["failed", "cancelled", "deadline"])
async def test_nothing_waits_after_an_end_on_the_way(end: str) -> None:
    replica = ScriptedReplica(seconds=0.1)
    service = EditService(replica, Jobs(), limit_seconds=10)
    running = asyncio.create_task(in_room(service, ORDERS, 0.05 if end == "deadline" else 60))
    (await replica.edits.get()).succeed()
    edit = await replica.edits.get()
    if end == "failed":
        edit.fail(ReplicaError("broken"))
    if end == "cancelled":
        running.cancel()
    with pytest.raises((ApiError, asyncio.CancelledError)):
        await running
    assert service.waiting_seconds() == 0
    assert edit.cancelled is (end != "failed")
    assert replica.edits.empty()


@pytest.mark.parametrize(
    ("error", "status", "param"),
    [
        (TemplateNotCachedError("no records"), 404, "cache"),
        (ReplicaError("broken"), 500, None),
    ],
)
async def test_failures_as_replies(error: Exception, status: int, param: str | None) -> None:
    replica = ScriptedReplica()
    running = asyncio.create_task(in_room(EditService(replica, Jobs(), 10), [ORDER]))
    (await replica.edits.get()).fail(error)
    with pytest.raises(ApiError, match=str(error)) as caught:
        await running
    assert (caught.value.status, caught.value.param, caught.value.retry_after) == (status, param, None)


async def test_errors_of_the_input_stay_what_they_are() -> None:
    replica = ScriptedReplica()
    running = asyncio.create_task(in_room(EditService(replica, Jobs(), 10), [ORDER]))
    (await replica.edits.get()).fail(MaskError("mask", "is bad"))
    with pytest.raises(InvalidInputError):
        await running


@pytest.mark.parametrize(("waiting", "count", "retry_after"), [(0, 9, None), (8, 1, None), (8, 2, 1), (9, 3, 3)])
def test_room(waiting: float, count: int, retry_after: float | None) -> None:
    jobs = Jobs()
    jobs.seconds = waiting
    service = EditService(ScriptedReplica(seconds=1), jobs, limit_seconds=9)
    if retry_after is None:
        with service.room(1, count):
            assert service.waiting_seconds() == waiting + count
        assert service.waiting_seconds() == waiting
        return
    with pytest.raises(ApiError) as caught, service.room(1, count):
        pass
    assert service.waiting_seconds() == waiting
    assert (caught.value.status, caught.value.retry_after) == (429, retry_after)
