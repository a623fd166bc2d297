"""Jobs to test with, and replicas that need no model."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from instgenie.orders import (
    EditOrder,
    EditOutcome,
    HeldTemplate,
    ModelCard,
    Pixels,
    ReplicaStats,
    StepReport,
    WarmOrder,
    WarmReport,
)
from instgenie_server.jobs import Job
from instgenie_server.jobs.dispatcher import ReadPicture
from tests.server.routes.scripted_replica import MODEL, TIMINGS

_numbers = itertools.count()


def a_job(**values: Any) -> Job:
    """A job with a name of its own."""
    number = next(_numbers)
    settings: dict[str, Any] = {
        "id": f"edit-{number:026}",
        "tenant": "ann",
        "params": {"prompt": "an apple", "seed": number},
        "image": "",
        "mask": None,
        "created_at": 1000.0 + number,
    }
    return Job(**(settings | values))


def order_of(job: Job, image: bytes, mask: bytes | None) -> EditOrder:
    """The order of a job whose picture is any bytes."""
    return EditOrder(
        id=job.id,
        picture=Pixels(1, 1, "RGB", image),
        mask=b"" if mask is None else mask,
        prompt=job.params["prompt"],
        seed=job.params["seed"],
    )


@asynccontextmanager
async def make_order(job: Job, read: ReadPicture) -> AsyncIterator[EditOrder]:
    """The same, of the files that it names."""
    yield order_of(job, await read(job.image), None if job.mask is None else await read(job.mask))


def result_of(order: EditOrder) -> bytes:
    """What the fakes make of an order: other bytes for anything that is not the same."""
    parts = (order.picture.data, order.mask, order.prompt.encode(), str(order.seed).encode())
    return b"result " + hashlib.sha256(b"|".join(parts)).hexdigest().encode()


def outcome_of(order: EditOrder) -> EditOutcome:
    """The outcome with that result."""
    return EditOutcome(result_of(order), 1, 1, TIMINGS)


@dataclass(eq=False)
class RunningEdit:
    """An edit on a `ManualReplica`, to be moved on by the test."""

    order: EditOrder
    report: Callable[[StepReport], None]
    outcome: asyncio.Future[EditOutcome]
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    def step(self, step: int, preview: bytes | None = None) -> None:
        self.report(StepReport(step, 4, preview))

    def succeed(self) -> None:
        self.outcome.set_result(outcome_of(self.order))

    def fail(self, error: Exception) -> None:
        self.outcome.set_exception(error)


class FakeReplica:
    """What all fakes have in common."""

    @property
    def model(self) -> ModelCard:
        return MODEL

    def predicted_seconds(self, order: EditOrder) -> float:
        return 1.0

    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        raise NotImplementedError

    async def warm(self, order: WarmOrder, report: Callable[[WarmReport], None]) -> None:
        raise NotImplementedError

    async def pin(self, keys: Iterable[str]) -> int:
        raise NotImplementedError

    async def unpin(self, keys: Iterable[str]) -> None:
        raise NotImplementedError

    async def forget(self, keys: Iterable[str]) -> None:
        raise NotImplementedError

    async def held(self, keys: Iterable[str]) -> dict[str, HeldTemplate]:
        raise NotImplementedError

    async def stats(self) -> ReplicaStats:
        raise NotImplementedError

    async def drain(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        pass


class ManualReplica(FakeReplica):
    """Each edit is put into `started` and runs until the test lets it end."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[RunningEdit] = asyncio.Queue()
        self.count = 0

    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        self.count += 1
        edit = RunningEdit(order, report, asyncio.get_running_loop().create_future())
        self.started.put_nowait(edit)
        try:
            return await edit.outcome
        finally:
            edit.stopped.set()


class SlowReplica(FakeReplica):
    """Edits end by themselves, after some steps that take their time."""

    def __init__(self, step_seconds: float = 0.0, steps: int = 4) -> None:
        self.step_seconds, self.steps = step_seconds, steps

    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        report(StepReport(0, self.steps))
        for step in range(self.steps):
            await asyncio.sleep(self.step_seconds)
            report(StepReport(step + 1, self.steps))
        return outcome_of(order)
