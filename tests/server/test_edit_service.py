"""Edits whose caller waits: what they count as, and how their failures are told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from instgenie.errors import (
    DeadlineError,
    InvalidInputError,
    MaskError,
    ReplicaError,
    ReplicaLostError,
    TemplateNotCachedError,
)
from instgenie.orders import EditOrder, EditOutcome, Pixels, StepReport
from instgenie_server.api_error import ApiError
from instgenie_server.edit_service import MAX_ATTEMPTS, EditService, Room
from instgenie_server.presence import Presence
from tests.server.routes.scripted_replica import ScriptedEdit, ScriptedReplica

ORDER = EditOrder(id="a", picture=Pixels(1, 1, "RGB", b"abc"), mask=b"\1", prompt="", seed=1)
ORDERS = [ORDER, replace(ORDER, seed=2), replace(ORDER, seed=3)]


class Jobs:
    """So much work of jobs waits."""

    seconds = 0.0

    def queued_seconds(self) -> float:
        return self.seconds


async def begun(replica: ScriptedReplica, count: int) -> list[ScriptedEdit]:
    """So many edits, all of which run."""
    return [await replica.edits.get() for _ in range(count)]


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
    """Three edits side by side, which end in another order than they began in."""
    told: list[tuple[int, int]] = []
    running = asyncio.create_task(service.run(ORDERS, room, 60, lambda number, step: told.append((number, step.step))))
    edits = await begun(replica, 3)
    assert [edit.order.seed for edit in edits] == [1, 2, 3]
    for done, number in enumerate((2, 0, 1)):
        assert service.waiting_seconds() == 1 + 2 * (3 - done)
        edits[number].report(StepReport(number + 1, 4))
        edits[number].succeed()
        await edits[number].stopped.wait()
        await asyncio.sleep(0)
    outcomes = await running
    assert [outcome.image for outcome in outcomes] == [edit.outcome.result().image for edit in edits]
    assert told == [(2, 3), (0, 1), (1, 2)]


@pytest.mark.parametrize("end", ["failed", "cancelled", "deadline"])
async def test_nothing_waits_after_an_end_on_the_way(end: str) -> None:
    replica = ScriptedReplica(seconds=0.1)
    service = EditService(replica, Jobs(), limit_seconds=10)
    running = asyncio.create_task(in_room(service, ORDERS, 0.05 if end == "deadline" else 60))
    first, second, third = await begun(replica, 3)
    first.succeed()
    if end == "failed":
        second.fail(ReplicaError("broken"))
    if end == "cancelled":
        running.cancel()
    with pytest.raises((ApiError, asyncio.CancelledError)) as caught:
        await running
    if isinstance(caught.value, ApiError):
        assert caught.value.status == (504 if end == "deadline" else 500)
    assert service.waiting_seconds() == 0
    assert (second.cancelled, third.cancelled) == (end != "failed", True)


async def test_what_is_left_until_the_deadline_goes_with_the_order() -> None:
    replica = ScriptedReplica()
    running = asyncio.create_task(in_room(EditService(replica, Jobs(), 10), [ORDER], 60))
    (edit,) = await begun(replica, 1)
    assert 59 < (edit.order.deadline_seconds or 0) <= 60
    edit.succeed()
    await running


async def test_an_edit_whose_replica_goes_is_begun_again_when_it_is_back() -> None:
    replica, presence = ScriptedReplica(), Presence()
    running = asyncio.create_task(in_room(EditService(replica, Jobs(), 10, presence), ORDERS[:2]))
    (lost, other) = await begun(replica, 2)
    presence.change(is_there=False)
    lost.fail(ReplicaLostError("it was killed"))
    other.succeed()
    await other.stopped.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    assert replica.edits.empty()  # it waits
    presence.change(is_there=True)
    (again,) = await begun(replica, 1)
    assert (again.order.id, again.order.seed) == (lost.order.id, lost.order.seed)
    assert (again.order.deadline_seconds or 0) <= (lost.order.deadline_seconds or 0)
    again.succeed()
    outcomes = await running
    assert [outcome.image for outcome in outcomes] == [
        again.outcome.result().image,
        other.outcome.result().image,
    ]


async def test_an_edit_that_loses_every_replica_fails() -> None:
    replica = ScriptedReplica()
    running = asyncio.create_task(in_room(EditService(replica, Jobs(), 10), [ORDER]))
    for _ in range(MAX_ATTEMPTS):
        (await replica.edits.get()).fail(ReplicaLostError("it was killed"))
    with pytest.raises(ApiError, match="it was killed") as caught:
        await running
    assert caught.value.status == 500
    assert replica.edits.empty()


async def test_other_failures_of_the_replica_are_not_tried_again() -> None:
    replica = ScriptedReplica()
    running = asyncio.create_task(in_room(EditService(replica, Jobs(), 10), [ORDER]))
    (await replica.edits.get()).fail(ReplicaError("out of memory"))
    with pytest.raises(ApiError):
        await running
    assert replica.edits.empty()


async def test_a_replica_that_stays_away() -> None:
    service = EditService(ScriptedReplica(), Jobs(), 10, Presence(is_there=False), return_seconds=0.01)
    with pytest.raises(ApiError) as caught:
        await in_room(service, [ORDER])
    assert (caught.value.status, caught.value.code) == (503, "unavailable")
    assert caught.value.retry_after is not None


async def test_a_replica_that_stays_away_until_the_deadline() -> None:
    service = EditService(ScriptedReplica(), Jobs(), 10, Presence(is_there=False))
    with pytest.raises(ApiError) as caught:
        await in_room(service, [ORDER], 0.01)
    assert caught.value.status == 504


@pytest.mark.parametrize(
    ("error", "status", "param"),
    [
        (TemplateNotCachedError("no records"), 404, "cache"),
        (ReplicaError("broken"), 500, None),
        (DeadlineError("too slow"), 504, None),
    ],
)
async def test_failures_as_replies(error: Exception, status: int, param: str | None) -> None:
    replica, failures = ScriptedReplica(), list[str]()
    service = EditService(replica, Jobs(), 10, on_failure=lambda: failures.append("one"))
    running = asyncio.create_task(in_room(service, [ORDER]))
    (await replica.edits.get()).fail(error)
    message = "there was no result" if status == 504 else str(error)
    with pytest.raises(ApiError, match=message) as caught:
        await running
    assert (caught.value.status, caught.value.param, caught.value.retry_after) == (status, param, None)
    assert len(failures) == (status == 500)  # else it is the order that cannot be done


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
