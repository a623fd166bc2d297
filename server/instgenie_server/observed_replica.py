"""A replica whose edits are counted, whoever asks for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from instgenie.errors import DeadlineError, InvalidInputError, ReplicaAwayError, TemplateNotCachedError
from instgenie.orders import (
    EditOrder,
    EditOutcome,
    HeldTemplate,
    ModelCard,
    Replica,
    ReplicaStats,
    StepReport,
    WarmOrder,
    WarmReport,
)
from instgenie_server.metrics import Metrics


class ObservedReplica:
    """Passes everything on to a `Replica`, and tells the metrics how edits end.

    Of an attempt that comes to nothing it cannot tell whether that is the edit's end: whoever asked may ask again.
    """

    def __init__(self, replica: Replica, metrics: Metrics) -> None:
        self._replica, self._metrics = replica, metrics

    @property
    def model(self) -> ModelCard:
        """See `Replica`."""
        return self._replica.model

    def predicted_seconds(self, order: EditOrder) -> float:
        """See `Replica`."""
        return self._replica.predicted_seconds(order)

    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        """See `Replica`."""
        last: float | None = None

        def observe(step: StepReport) -> None:
            nonlocal last
            now = time.perf_counter()
            if last is not None:
                self._metrics.observe_step(now - last)
            last = now
            report(step)

        try:
            outcome = await self._replica.edit(order, observe)
        except asyncio.CancelledError:
            self._metrics.count_edit_failure("cancelled")
            raise
        except (InvalidInputError, TemplateNotCachedError):
            self._metrics.count_edit_failure("invalid")
            raise
        except DeadlineError:
            self._metrics.count_edit_failure("expired")
            raise
        except ReplicaAwayError:  # it has not begun
            raise
        except Exception:
            self._metrics.count_lost_attempt()
            raise
        self._metrics.observe_edit(outcome.timings)
        return outcome

    async def warm(self, order: WarmOrder, report: Callable[[WarmReport], None]) -> None:
        """See `Replica`."""
        await self._replica.warm(order, report)

    async def pin(self, keys: Iterable[str]) -> int:
        """See `Replica`."""
        return await self._replica.pin(keys)

    async def unpin(self, keys: Iterable[str]) -> None:
        """See `Replica`."""
        await self._replica.unpin(keys)

    async def forget(self, keys: Iterable[str]) -> None:
        """See `Replica`."""
        await self._replica.forget(keys)

    async def held(self, keys: Iterable[str]) -> dict[str, HeldTemplate]:
        """See `Replica`."""
        return await self._replica.held(keys)

    async def stats(self) -> ReplicaStats:
        """See `Replica`."""
        return await self._replica.stats()

    async def drain(self) -> None:
        """See `Replica`."""
        await self._replica.drain()

    async def close(self) -> None:
        """See `Replica`."""
        await self._replica.close()
