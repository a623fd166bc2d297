"""Edits whose caller waits: admitted, and run on the replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from instgenie.errors import ReplicaError, TemplateNotCachedError
from instgenie.orders import EditOrder, EditOutcome, Replica, StepReport
from instgenie_server.access.admission import refusal
from instgenie_server.api_error import ApiError, failed


class Queue(Protocol):
    """What waits besides: asynchronous jobs."""

    def queued_seconds(self) -> float:
        """Predicted work that is accepted and not done."""
        ...


class EditService:
    """Runs edits at once, as long as not too much waits."""

    def __init__(self, replica: Replica, jobs: Queue, limit_seconds: float) -> None:
        self._replica, self._jobs, self._limit_seconds = replica, jobs, limit_seconds
        self._own_seconds = 0.0

    def waiting_seconds(self) -> float:
        """Predicted work that is accepted and not done, jobs included."""
        return self._own_seconds + self._jobs.queued_seconds()

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
        self, order: EditOrder, deadline_seconds: float, report: Callable[[StepReport], None] = lambda _: None
    ) -> EditOutcome:
        """Run the edit to its end; cancelling the call stops it at its next step.

        Raises:
            InvalidInputError: a value outside its limits.
            ApiError: 404 where records are required and not there, 504 past the deadline, 500 for a failure of ours.
        """
        seconds = self._replica.predicted_seconds(order)
        self._own_seconds += seconds
        try:
            async with asyncio.timeout(deadline_seconds):
                return await self._replica.edit(order, report)
        except TimeoutError:
            message = f"the edit was not done after {deadline_seconds:g} s"
            raise ApiError(504, message, "server_error", "deadline_ms", "deadline_exceeded") from None
        except TemplateNotCachedError as error:
            raise ApiError(404, str(error), "invalid_request_error", "cache", "template_not_cached") from error
        except ReplicaError as error:
            raise failed(str(error)) from error
        finally:
            self._own_seconds = max(0.0, self._own_seconds - seconds)
