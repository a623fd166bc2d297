"""What is asked of all members of a fleet at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from instgenie.errors import ReplicaError
from instgenie_server.fleet.seat import Seat
from instgenie_server.replica_process.supervised_replica import SupervisedReplica

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answers(Generic[T]):
    """What came of a question.

    Attributes:
        told: by those who could answer, one at least.
        late: who has not answered in time; they do what they were asked nevertheless, sooner or later.
    """

    told: Mapping[Seat, T]
    late: Sequence[Seat]


async def answers(
    seats: Sequence[Seat], question: Callable[[SupervisedReplica], Awaitable[T]], patience_seconds: float
) -> Answers[T]:
    """What they say. The others are waited for no longer than that once one has answered.

    Args:
        seats: at least one.
    Raises:
        ReplicaError: nobody could; that of the first one.
    """

    async def asked(seat: Seat) -> T:
        return await question(seat.member.replica)

    tasks = {seat: asyncio.create_task(asked(seat)) for seat in seats}
    pending = set(tasks.values())
    try:
        while pending and not any(map(_has_answered, tasks.values())):
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if pending:
            _, pending = await asyncio.wait(pending, timeout=patience_seconds)
    finally:
        for task in tasks.values():
            task.cancel()
    told = {seat: task.result() for seat, task in tasks.items() if _has_answered(task)}
    if not told:
        raise next(error for task in tasks.values() if (error := task.exception()) is not None)
    return Answers(told, [seat for seat, task in tasks.items() if task in pending])


def _has_answered(task: asyncio.Task[T]) -> bool:
    """Whether it is done, and not because the replica went; other errors are raised."""
    if not task.done() or task.cancelled():
        return False
    error = task.exception()
    if error is not None and not isinstance(error, ReplicaError):
        raise error
    return error is None
