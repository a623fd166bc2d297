"""Edits whose caller waits: admitted, and run on the replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import structlog

from instgenie.errors import (
    DeadlineError,
    InvalidInputError,
    ReplicaAwayError,
    ReplicaError,
    ReplicaLostError,
    TemplateNotCachedError,
)
from instgenie.orders import EditOrder, EditOutcome, Replica, StepReport
from instgenie_server.access.admission import refusal
from instgenie_server.api_error import ApiError, failed, unavailable
from instgenie_server.presence import Presence

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

MAX_ATTEMPTS = 3  # of an edit whose replica goes while it runs
LOST_RETRY_SECONDS = 5.0
AWAY_SECONDS = 0.05  # before it is asked for again whether there is a replica
Report = Callable[[int, StepReport], None]


def deadline_passed(seconds: float) -> ApiError:
    """504."""
    return ApiError(504, f"there was no result after {seconds:g} s", "server_error", None, "deadline_exceeded")


class Queue(Protocol):
    """What waits besides: asynchronous jobs."""

    def queued_seconds(self) -> float:
        """Predicted work that is accepted and not done."""
        ...


@dataclass(slots=True, eq=False)
class Room:
    """What a request's edits count as among the work that waits: so many of them, of so many seconds each."""

    edit_seconds: float
    edits: int

    @property
    def seconds(self) -> float:
        """Predicted work that is left."""
        return self.edit_seconds * self.edits


class EditService:
    """Runs edits at once, as long as not too much waits."""

    def __init__(
        self,
        replica: Replica,
        jobs: Queue,
        limit_seconds: float,
        presence: Presence | None = None,
        return_seconds: float = 120.0,
        num_replicas: Callable[[], int] = lambda: 1,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """Args:
        limit_seconds: of predicted work, that may wait for each replica.
        presence: of the replica; None is one that never goes.
        return_seconds: longest that an edit waits for a replica that is away.
        num_replicas: that share the work just now.
        on_failure: called with each edit that fails for good, through no fault of its own.
        """
        self._replica, self._jobs, self._limit_seconds = replica, jobs, limit_seconds
        self._presence, self._return_seconds = presence or Presence(), return_seconds
        self._num_replicas, self._on_failure = num_replicas, on_failure
        self._rooms: set[Room] = set()

    def waiting_seconds(self) -> float:
        """Predicted work that is accepted and not done, jobs included."""
        # Summed up each time: what is left of adding and subtracting floats would count as work that waits.
        return sum(room.seconds for room in self._rooms) + self._jobs.queued_seconds()

    def predicted_seconds(self, order: EditOrder) -> float:
        """How long the replica will be busy with the order. Looks at every pixel of the mask."""
        return self._replica.predicted_seconds(order)

    @contextmanager
    def room(self, edit_seconds: float, edits: int = 1) -> Iterator[Room]:
        """Let a request's edits count as waiting while the block runs, those that are done excepted.

        Args:
            edit_seconds: predicted work of each.
        Raises:
            ApiError: 429, it would wait too long, with the time after which there is room.
        """
        room = Room(edit_seconds, edits)
        replicas = self._num_replicas()
        error = refusal(self.waiting_seconds(), room.seconds, replicas * self._limit_seconds, replicas)
        if error is not None:
            raise error
        self._rooms.add(room)
        try:
            yield room
        finally:
            self._rooms.remove(room)

    async def run(
        self,
        orders: Sequence[EditOrder],
        room: Room,
        deadline_seconds: float,
        report: Report = lambda _number, _step: None,
    ) -> list[EditOutcome]:
        """Run the edits side by side to their end; the first one that fails ends the others at their next step.

        Cancelling the call does so too. An edit whose replica goes is begun again on the next one.

        Args:
            room: that of these edits.
            deadline_seconds: for all of them together.
            report: called with the number of the order, from 0, and its steps.
        Returns:
            What came of the orders, in their order.
        Raises:
            InvalidInputError: a value outside its limits.
            ApiError: 404 where records are required and not there, 504 past the deadline or where it cannot be met,
                503 where there is no replica for long, 500 for a failure of ours.
        """
        ends_at = asyncio.get_running_loop().time() + deadline_seconds
        try:
            async with asyncio.timeout(deadline_seconds), asyncio.TaskGroup() as group:
                edits = [
                    group.create_task(self._edit(order, partial(report, number), room, ends_at))
                    for number, order in enumerate(orders)
                ]
            return [edit.result() for edit in edits]
        except TimeoutError:
            raise deadline_passed(deadline_seconds) from None
        except BaseExceptionGroup as group_error:
            first = group_error.exceptions[0]
        match first:
            case DeadlineError():
                raise deadline_passed(deadline_seconds) from first
            case TemplateNotCachedError():
                raise ApiError(404, str(first), "invalid_request_error", "cache", "template_not_cached") from first
            case ReplicaError():
                raise failed(str(first)) from first
            case _:
                raise first

    async def _edit(
        self, order: EditOrder, report: Callable[[StepReport], None], room: Room, ends_at: float
    ) -> EditOutcome:
        """One edit, whatever becomes of it."""
        try:
            return await self._attempts(order, report, room, ends_at)
        except (InvalidInputError, TemplateNotCachedError, DeadlineError):
            raise
        except Exception:
            self._on_failure()
            raise

    async def _attempts(
        self, order: EditOrder, report: Callable[[StepReport], None], room: Room, ends_at: float
    ) -> EditOutcome:
        """One edit, begun again where the replica goes."""
        loop = asyncio.get_running_loop()
        attempts = 0
        while True:
            await self._replica_is_there()
            attempts += 1
            timed = replace(order, deadline_seconds=max(0.0, ends_at - loop.time()))
            try:
                outcome = await self._replica.edit(timed, report)
            except ReplicaAwayError:  # it has not begun: that was no attempt
                attempts -= 1
                await asyncio.sleep(AWAY_SECONDS)
            except ReplicaLostError as error:
                log.warning("an edit lost its replica", order=order.id, attempt=attempts, reason=str(error))
                if attempts == MAX_ATTEMPTS:
                    raise
            else:
                room.edits -= 1
                return outcome

    async def _replica_is_there(self) -> None:
        """Wait for it, but not for ever.

        Raises:
            ApiError: 503, it stays away.
        """
        try:
            async with asyncio.timeout(self._return_seconds):
                await self._presence.wait()
        except TimeoutError:
            raise unavailable("the replica is being started again", LOST_RETRY_SECONDS) from None
