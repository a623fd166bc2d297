"""A process that may not let a file grow beyond a limit: `full_disk_child.py FOLDER`.

It submits jobs until one is refused, lifts the limit, submits one more and waits for all ends. It tells what it saw:
`accepted ID`, `refused ID ERROR` and `ended ID STATE`.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path

from instgenie_server.jobs import DispatcherSettings, Job, JobError, Jobs, open_jobs
from instgenie_server.settings import RetentionSettings
from tests.server.jobs.crash_child import tell
from tests.server.jobs.fakes import SlowReplica, a_job, make_order

LIMIT_BYTES = 300_000
SETTINGS = DispatcherSettings(concurrency=4, storage_seconds=0.01)


def limit(soft_bytes: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft_bytes, hard))


async def submit(jobs: Jobs, job: Job, image: bytes) -> bool:
    try:
        await jobs.submit(job, image, None)
    except JobError as error:
        tell("refused", job.id, type(error).__name__)
        return False
    tell("accepted", job.id)
    return True


async def main(folder: Path) -> None:
    async with open_jobs(folder, SlowReplica(), make_order, RetentionSettings(), SETTINGS) as jobs:
        limit(LIMIT_BYTES)
        accepted: list[Job] = []
        await submit(jobs, a_job(), bytes(2 * LIMIT_BYTES))
        job = a_job()
        while await submit(jobs, job, b"image"):
            accepted.append(job)
            job = a_job()
        limit(resource.RLIM_INFINITY)
        await submit(jobs, job, b"image")  # again: the refusal has left nothing behind
        for last in [*accepted, job]:
            events = await jobs.events(last.tenant, last.id)
            assert events is not None
            tell("ended", last.id, [event.kind async for event in events][-1])


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
