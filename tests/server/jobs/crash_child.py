"""A process that accepts and runs jobs until it is killed: `crash_child.py FOLDER [POINT]`.

With a point it kills itself there. It takes one command a line:

    submit KEY SEED        -> accepted KEY ID, once the job is durable
    watch ID LAST_SEEN     -> event ID EVENT_ID KIND for every event after that one
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import uvloop

from instgenie.orders import EditOrder, EditOutcome, StepReport
from instgenie_server.jobs import DispatcherSettings, Job, Jobs, JobState, new_job_id, open_jobs
from instgenie_server.jobs.dispatcher import Dispatcher
from instgenie_server.jobs.job_events import JobEvents
from instgenie_server.jobs.job_store import JobStore
from instgenie_server.jobs.picture_files import Hold, PictureFiles
from instgenie_server.settings import RetentionSettings
from tests.server.jobs.fakes import SlowReplica, make_order

TENANT = "ann"
STEP_SECONDS = 0.002
SETTINGS = DispatcherSettings(concurrency=4, grace_seconds=0, stop_seconds=5, retry_seconds=0, storage_seconds=0)
POINTS = (
    "before the image is written",
    "after the image is written",
    "before the row is written",
    "after the row is written",
    "before the claim",
    "after the claim",
    "while it runs",
    "before the result is written",
    "after the result is written",
    "before the end is stored",
    "after the end is stored",
)
die_at = ""


def at(point: str) -> None:
    """Die, if that is the point."""
    assert point in POINTS
    if point == die_at:
        os.kill(os.getpid(), signal.SIGKILL)


class DyingFiles(PictureFiles):
    async def _write(self, data: bytes, hold: Hold) -> str:
        what = "result" if data.startswith(b"result") else "image"
        at(f"before the {what} is written")
        digest = await super()._write(data, hold)
        at(f"after the {what} is written")
        return digest


class DyingStore(JobStore):
    async def add(self, job: Job) -> Job:
        at("before the row is written")
        stored = await super().add(job)
        at("after the row is written")
        return stored

    async def claim(self, job_id: str, now: float) -> Job | None:
        at("before the claim")
        claimed = await super().claim(job_id, now)
        at("after the claim")
        return claimed

    async def finish(
        self, job_id: str, end: JobState, now: float, detail: dict[str, Any], result: str | None = None
    ) -> Job | None:
        at("before the end is stored")
        ended = await super().finish(job_id, end, now, detail, result)
        at("after the end is stored")
        return ended


class DyingReplica(SlowReplica):
    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        def reported(step: StepReport) -> None:
            report(step)
            if step.step == 2:
                at("while it runs")

        return await super().edit(order, reported)


@contextlib.asynccontextmanager
async def dying_jobs(folder: Path) -> AsyncIterator[Jobs]:
    """What `open_jobs` makes, but of mortal parts."""
    files = DyingFiles(folder / "files")
    await files.open()
    store = await DyingStore.open(folder / "jobs.sqlite3")
    events = JobEvents(store.generation, store.get)
    dispatcher = Dispatcher(store, files, events, DyingReplica(STEP_SECONDS), make_order, SETTINGS)
    jobs = Jobs(store, files, events, dispatcher)
    await jobs._restore(time.time())
    dispatcher.start()
    yield jobs


def tell(*words: object) -> None:
    """One line to whoever started this; whole, so that a kill does not cut it."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def submit(jobs: Jobs, key: str, seed: str) -> None:
    now = time.time()
    job = Job(
        id=new_job_id(now),
        tenant=TENANT,
        params={"prompt": f"an apple for {key}", "seed": int(seed)},
        image="",
        mask=None,
        created_at=now,
        idempotency_key=key,
        request_digest=key,
    )
    accepted = await jobs.submit(job, f"image {int(seed) % 4}".encode(), b"mask")
    tell("accepted", key, accepted.id)


async def watch(jobs: Jobs, job_id: str, last_seen: str) -> None:
    events = await jobs.events(TENANT, job_id, int(last_seen))
    assert events is not None
    async for event in events:
        tell("event", job_id, event.id, event.kind)


async def main(folder: Path) -> None:
    made = dying_jobs(folder)
    if not die_at:
        made = open_jobs(folder, SlowReplica(STEP_SECONDS), make_order, RetentionSettings(), SETTINGS)
    async with made as jobs, asyncio.TaskGroup() as tasks:
        tell("ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, *arguments = line.split()
            tasks.create_task({"submit": submit, "watch": watch}[command](jobs, *arguments))


if __name__ == "__main__":
    die_at = " ".join(sys.argv[2:])
    uvloop.run(main(Path(sys.argv[1])))
