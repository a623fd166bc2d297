"""A dispatcher with everything it needs, and a way to submit jobs to it and to watch them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from instgenie_server.jobs.dispatcher import Dispatcher, DispatcherSettings, MakeOrder
from instgenie_server.jobs.errors import JobStoreError, PictureFileError
from instgenie_server.jobs.event_log import JobEvent
from instgenie_server.jobs.job import Job, JobState
from instgenie_server.jobs.job_events import JobEvents
from instgenie_server.jobs.job_store import JobStore
from instgenie_server.jobs.jobs import Jobs
from instgenie_server.jobs.picture_files import Hold, PictureFiles
from tests.server.jobs.fakes import FakeReplica, a_job, make_order
from tests.server.manual_clock import ManualClock

S = TypeVar("S", bound=JobStore)
SETTINGS = DispatcherSettings(concurrency=1, grace_seconds=5, stop_seconds=5, retry_seconds=0, storage_seconds=0)


class Gate:
    """Where somebody waits until the test lets it pass."""

    def __init__(self) -> None:
        self.reached, self.go = asyncio.Event(), asyncio.Event()

    async def wait(self) -> None:
        self.reached.set()
        await self.go.wait()


class FlakyStore(JobStore):
    """Fails as told.

    Attributes:
        failures: how many of the next claims and ends come to nothing.
        after: how many of the next ends seem to, but have taken effect.
        is_full: whether additions come to nothing.
        overlooked: how many of the next looks for an earlier job come before it is there.
        bugs: how many of the next claims raise what nobody foresaw.
        gate: where claims wait.
        exit: where additions and ends wait when they have been made.
    """

    failures = 0
    after = 0
    is_full = False
    overlooked = 0
    bugs = 0
    gate: Gate | None = None
    exit: Gate | None = None

    async def add(self, job: Job) -> Job:
        if self.is_full:
            raise JobStoreError("the disk is full")
        stored = await super().add(job)
        if self.exit is not None:
            await self.exit.wait()
        return stored

    async def earlier(self, job: Job) -> Job | None:
        if self.overlooked > 0:
            self.overlooked -= 1
            return None
        return await super().earlier(job)

    async def claim(self, job_id: str, now: float) -> Job | None:
        if self.gate is not None:
            await self.gate.wait()
        if self.bugs > 0:
            self.bugs -= 1
            raise RuntimeError("a bug")
        self._fail()
        return await super().claim(job_id, now)

    async def finish(
        self, job_id: str, end: JobState, now: float, detail: dict[str, Any], result: str | None = None
    ) -> Job | None:
        self._fail()
        ended = await super().finish(job_id, end, now, detail, result)
        if self.exit is not None:
            await self.exit.wait()
        if self.after > 0:
            self.after -= 1
            raise JobStoreError("the disk went away too late")
        return ended

    def _fail(self) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise JobStoreError("the disk is full")


class FlakyFiles(PictureFiles):
    """Fails at the next `failures` writes."""

    failures = 0

    async def _write(self, data: bytes, hold: Hold) -> str:
        if self.failures > 0:
            self.failures -= 1
            raise PictureFileError("the disk is full")
        return await super()._write(data, hold)


@dataclass(slots=True)
class Bench:
    """Everything on one bench; `replica` is the one that was put in."""

    store: FlakyStore
    files: FlakyFiles
    events: JobEvents
    dispatcher: Dispatcher
    jobs: Jobs
    clock: ManualClock

    async def submit(self, **values: Any) -> Job:
        """A job that waits."""
        return await self.jobs.submit(a_job(**values), b"an image", b"a mask")

    async def watch(self, job: Job) -> list[JobEvent]:
        """All events of the job, up to its end."""
        return [event async for event in self.events.subscribe(job.id)]

    async def end(self, job: Job) -> Job:
        """The job after its end, which came exactly once."""
        events = await self.watch(job)
        ends = [event.kind.value for event in events if event.kind.value in tuple(JobState) and event.kind != "queued"]
        stored = await self.store.get(job.id)
        assert stored is not None
        assert ends == [stored.state]
        return stored


@contextlib.asynccontextmanager
async def a_store(folder: Path, kind: type[S]) -> AsyncIterator[S]:
    """A store that is closed whatever happens: one left open would keep the process from ending."""
    store = await kind.open(folder / "jobs.sqlite3")
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def a_bench(
    folder: Path,
    replica: FakeReplica,
    settings: DispatcherSettings = SETTINGS,
    make_order: MakeOrder = make_order,
) -> AsyncIterator[Bench]:
    """A bench whose dispatcher runs."""
    async with a_store(folder, FlakyStore) as store:
        files = FlakyFiles(folder / "files")
        await files.open()
        events = JobEvents(store.generation, store.get)
        clock = ManualClock(5000.0)
        dispatcher = Dispatcher(store, files, events, replica, make_order, settings, clock)
        dispatcher.start()
        try:
            yield Bench(store, files, events, dispatcher, Jobs(store, files, events, dispatcher), clock)
        finally:
            await dispatcher.stop()
            events.close()
            await files.close()
