"""Edits whose caller waits: admitted, and run on the replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from instgenie.errors import ReplicaError, TemplateNotCachedError
from instgenie.orders import EditOrder, EditOutcome, Replica, StepReport
from instgenie_server.access.admission import refusal
from instgenie_server.api_error import ApiError, failed

Report = Callable[[int, StepReport], None]


def deadline_passed(seconds: float) -> ApiError:
    """504."""
    message = f"there was no result after {seconds:g} s"
    return ApiError(504, message, "server_error", "deadline_ms", "deadline_exceeded")


class Queue(Protocol):
    """What waits besides: asynchronous jobs."""

    def queued_seconds(self) -> float:
        """Predicted work that is accepted and not done."""
        ...


class EditService:
    """Runs edits at once, as long as not too much waits."""

    def __init__(self, replica: Replica, jobs: Queue, limit_seconds: float) -> None:
        self._replica, self._jobs, self._limit_seconds = replica, jobs, limit_seconds
        self._left_seconds: dict[object, list[float]] = {}  # of each call, for the edits that are not done

    def waiting_seconds(self) -> float:
        """Predicted work that is accepted and not done, jobs included."""
        # Summed up each time: what is left of adding and subtracting floats would count as work that waits.
        return sum(map(sum, self._left_seconds.values())) + self._jobs.queued_seconds()

    def predicted_seconds(self, order: EditOrder) -> float:
        """How long the replica will be busy with the order."""
        return self._replica.predicted_seconds(order)

    def check_room(self, orders: Sequence[EditOrder]) -> None:
        """Refuse what would wait too long.

        Raises:
            ApiError: 429 with the time after which there is room.
        """
        seconds = sum(map(self._replica.predicted_seconds, orders))
        error = refusal(self.waiting_seconds(), seconds, self._limit_seconds)
        if error is not None:
            raise error

    async def run(
        self, orders: Sequence[EditOrder], deadline_seconds: float, report: Report = lambda _number, _step: None
    ) -> list[EditOutcome]:
        """Run the edits one after the other to their end; cancelling the call stops the running one at its next step.

        Args:
            deadline_seconds: for all of them together.
            report: called with the number of the order, from 0, and its steps.
        Raises:
            InvalidInputError: a value outside its limits.
            ApiError: 404 where records are required and not there, 504 past the deadline, 500 for a failure of ours.
        """
        call = object()
        left = self._left_seconds[call] = [self._replica.predicted_seconds(order) for order in orders]
        outcomes: list[EditOutcome] = []
        try:
            async with asyncio.timeout(deadline_seconds):
                for number, order in enumerate(orders):
                    outcomes.append(await self._replica.edit(order, partial(report, number)))
                    del left[0]
            return outcomes
        except TimeoutError:
            raise deadline_passed(deadline_seconds) from None
        except TemplateNotCachedError as error:
            raise ApiError(404, str(error), "invalid_request_error", "cache", "template_not_cached") from error
        except ReplicaError as error:
            raise failed(str(error)) from error
        finally:
            del self._left_seconds[call]
