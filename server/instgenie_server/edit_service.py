"""Edits whose caller waits: admitted, and run on the replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from instgenie.errors import ReplicaError, TemplateNotCachedError
from instgenie.orders import EditOrder, EditOutcome, Replica, StepReport
from instgenie_server.access.admission import refusal
from instgenie_server.api_error import ApiError, failed

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

    def __init__(self, replica: Replica, jobs: Queue, limit_seconds: float) -> None:
        self._replica, self._jobs, self._limit_seconds = replica, jobs, limit_seconds
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
        error = refusal(self.waiting_seconds(), room.seconds, self._limit_seconds)
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
        """Run the edits one after the other to their end; cancelling the call stops the running one at its next step.

        Args:
            room: that of these edits.
            deadline_seconds: for all of them together.
            report: called with the number of the order, from 0, and its steps.
        Raises:
            InvalidInputError: a value outside its limits.
            ApiError: 404 where records are required and not there, 504 past the deadline, 500 for a failure of ours.
        """
        outcomes: list[EditOutcome] = []
        try:
            async with asyncio.timeout(deadline_seconds):
                for number, order in enumerate(orders):
                    outcomes.append(await self._replica.edit(order, partial(report, number)))
                    room.edits -= 1
            return outcomes
        except TimeoutError:
            raise deadline_passed(deadline_seconds) from None
        except TemplateNotCachedError as error:
            raise ApiError(404, str(error), "invalid_request_error", "cache", "template_not_cached") from error
        except ReplicaError as error:
            raise failed(str(error)) from error
