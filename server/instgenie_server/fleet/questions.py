"""What is asked of all members of a fleet at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from instgenie.errors import ReplicaError
from instgenie_server.fleet.seat import Seat
from instgenie_server.replica_process.supervised_replica import SupervisedReplica

T = TypeVar("T")


async def answers(
    seats: Sequence[Seat], question: Callable[[SupervisedReplica], Awaitable[T]], patience_seconds: float
) -> list[T]:
    """What they say, who can. The others are waited for no longer than that once one has answered.

    Args:
        seats: at least one.
    Raises:
        ReplicaError: nobody could; that of the first one.
    """

    async def asked(seat: Seat) -> T:
        return await question(seat.member.replica)

    tasks = [asyncio.create_task(asked(seat)) for seat in seats]
    try:
        pending = set(tasks)
        while pending and not any(_has_answered(task) for task in tasks):
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if pending:
            await asyncio.wait(pending, timeout=patience_seconds)
    finally:
        for task in tasks:
            task.cancel()
    told = [task.result() for task in tasks if _has_answered(task)]
    if not told:
        raise next(error for task in tasks if (error := task.exception()) is not None)
    return told


def _has_answered(task: asyncio.Task[T]) -> bool:
    """Whether it is done, and not because the replica went; other errors are raised."""
    if not task.done() or task.cancelled():
        return False
    error = task.exception()
    if error is not None and not isinstance(error, ReplicaError):
        raise error
    return error is None
