"""Jobs as the routes see them: submit, look up, watch, cancel; what was accepted survives a crash.

data_dir/
    server.lock     held while a server works on the folder
    jobs.sqlite3    the job table
    files/          uploads and results, named by their content
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from pathlib import Path

from instgenie.orders import Replica, StepReport
from instgenie_server.jobs.dispatcher import Dispatcher, DispatcherSettings, MakeOrder
from instgenie_server.jobs.errors import JobError
from instgenie_server.jobs.event_log import JobEvent
from instgenie_server.jobs.folder_lock import locked_folder
from instgenie_server.jobs.job import Job, JobState
from instgenie_server.jobs.job_events import JobEvents
from instgenie_server.jobs.job_store import JobPage, JobStore
from instgenie_server.jobs.kept_tasks import KeptTasks
from instgenie_server.jobs.picture_files import Hold, PictureFiles
from instgenie_server.jobs.sweeper import Sweeper
from instgenie_server.jobs.unused_files import delete_unused
from instgenie_server.settings import RetentionSettings

log = logging.getLogger(__name__)

_CLOSE_SECONDS = 10.0


class Jobs:
    """All jobs of a server; made by `open_jobs`. Methods that take a tenant see that tenant's jobs only."""

    def __init__(self, store: JobStore, files: PictureFiles, events: JobEvents, dispatcher: Dispatcher) -> None:
        self._store, self._files, self._events, self._dispatcher = store, files, events, dispatcher
        self._tasks = KeptTasks()

    async def submit(self, job: Job, image: bytes, mask: bytes | None) -> Job:
        """Accept a job: on return it is durable and waits for its turn. The digests of the pictures are filled in.

        Once begun it is carried through, also where the caller is cancelled.

        Returns:
            The job, or the one (of another id) that was accepted under its idempotency key before.

        Raises:
            IdempotencyConflictError: the idempotency key belongs to another request.
            JobStoreError, PictureFileError: it could not be stored, and was not accepted.
        """
        return await self._tasks.complete(self._accept(job, image, mask), f"accepting {job.id}")

    async def has_key(self, tenant: str, idempotency_key: str) -> bool:
        """Whether the tenant has a job under that key."""
        return await self._store.by_key(tenant, idempotency_key) is not None

    async def find(self, job_id: str) -> Job | None:
        """The job, whosever it is: for callers that are shown to be entitled to it in another way."""
        if not job_id.isascii():
            return None  # SQLite refuses lone surrogates, and ours are ASCII
        return await self._store.get(job_id)

    async def get(self, tenant: str, job_id: str) -> Job | None:
        """The job; None where the tenant has none of that id."""
        job = await self.find(job_id)
        return job if job is not None and job.tenant == tenant else None

    async def page(self, tenant: str, limit: int, cursor: str | None = None, state: JobState | None = None) -> JobPage:
        """The tenant's jobs after the cursor, newest first, `limit` at most.

        Raises:
            CursorError: the cursor is none of ours.
        """
        return await self._store.page(tenant, limit, cursor, state)

    async def cancel(self, tenant: str, job_id: str) -> Job | None:
        """End the job as cancelled unless it has an end; the job then, or None where the tenant has none of that id."""
        job = await self.get(tenant, job_id)
        if job is None or job.state.is_end:
            return job
        cancelled = await self._tasks.complete(self._dispatcher.cancel(job_id), f"cancelling {job_id}")
        return cancelled or await self.get(tenant, job_id)

    async def events(
        self, tenant: str, job_id: str, last_seen: int | None = None
    ) -> AsyncGenerator[JobEvent, None] | None:
        """The job's events after the one of that id, until its end; None where the tenant has no such job.

        To be closed (`contextlib.aclosing`) by those who leave before the end.
        """
        job = await self.get(tenant, job_id)
        if job is None:
            return None
        self._dispatcher.tell_position(job_id)
        return self._events.subscribe(job_id, last_seen)

    async def result(self, tenant: str, job_id: str) -> bytes | None:
        """The result's file; None where the tenant has no such job, or it is not done.

        Raises:
            PictureFileError: the job is done, but its file is gone or has rotted.
        """
        job = await self.get(tenant, job_id)
        return None if job is None or job.result is None else await self._files.read(job.result)

    async def result_file(self, tenant: str, job_id: str) -> Path | None:
        """Where the result's file is, looked at just now; None and errors as of `result`."""
        job = await self.get(tenant, job_id)
        return None if job is None or job.result is None else await self._files.sound_file(job.result)

    def position(self, job_id: str) -> int | None:
        """1 for the next job to run, 0 for one that runs, None for others."""
        return self._dispatcher.position(job_id)

    def progress(self, job_id: str) -> StepReport | None:
        """The last step of a running job, without its preview."""
        return self._dispatcher.progress(job_id)

    def queued_seconds(self) -> float:
        """Predicted work of all waiting jobs, and what is left of the running ones."""
        return self._dispatcher.queued_seconds()

    async def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state, of all tenants."""
        return await self._store.counts()

    def hold_up(self, *, held_up: bool) -> None:
        """Begin no jobs for as long as it is so: they stay in the queue."""
        self._dispatcher.hold_up(held_up=held_up)

    async def drain(self) -> None:
        """Take no more jobs and let the running ones finish within their grace period; then let all watchers go.

        For the start of a shutdown, while connections are still open; `open_jobs` does it at the latest. A job that is
        submitted after it waits for the next start.
        """
        await self._dispatcher.stop()
        self._events.close()
        await self._tasks.close(_CLOSE_SECONDS)

    async def _accept(self, job: Job, image: bytes, mask: bytes | None) -> Job:
        # Before anything is written: requests under a known key pass admission, and could else fill the disk.
        earlier = await self._store.earlier(job)
        if earlier is not None:
            return earlier
        try:
            with self._files.hold() as hold:
                stored = await self._write(job, image, mask, hold)
        except Exception:
            await self._drop(hold.digests)
            raise
        if stored.id == job.id:
            self._dispatcher.add(stored)
        else:
            self._events.discard(job.id)
        return stored

    async def _write(self, job: Job, image: bytes, mask: bytes | None, hold: Hold) -> Job:
        """Store the job and its pictures."""
        image_digest = await hold.write(image)
        mask_digest = None if mask is None else await hold.write(mask)
        job = dataclasses.replace(job, image=image_digest, mask=mask_digest)
        self._events.open(job.id)
        try:
            return await self._store.add(job)
        except BaseException:
            self._events.discard(job.id)
            raise

    async def _drop(self, digests: Iterable[str]) -> None:
        """Delete the pictures of a job that was not stored, as far as no other one has them."""
        try:
            await delete_unused(self._files, self._store, digests)
        except JobError as error:
            log.warning("pictures of a job that was not accepted stay until they are swept: %s", error)

    async def _restore(self, now: float) -> None:
        """Take up what the last process left."""
        requeued, failed = await self._store.requeue_unfinished(now)
        queued = await self._store.queued()
        for job in queued:
            self._events.open(job.id)
            self._dispatcher.add(job)
        if queued or failed:
            log.info(
                "took up %d jobs, %d of which had been interrupted; %d were interrupted too often and failed",
                len(queued),
                len(requeued),
                len(failed),
            )


@contextlib.asynccontextmanager
async def open_jobs(
    data_dir: Path,
    replica: Replica,
    make_order: MakeOrder,
    retention: RetentionSettings,
    settings: DispatcherSettings,
    now: Callable[[], float] = time.time,
    on_failure: Callable[[], None] = lambda: None,
    *,
    is_locked: bool = False,
) -> AsyncIterator[Jobs]:
    """The jobs of a folder, running on the replica; what an earlier process left unfinished is taken up.

    At the end running jobs have `settings.grace_seconds` to finish; the others wait in the folder for the next start.

    Args:
        make_order: holds the order of a job, from its `params` and its image and mask, which it reads by digest.
        now: seconds since 1970.
        on_failure: see `Dispatcher`.
        is_locked: whether the caller holds the folder's `FolderLock`; else it is held meanwhile.

    Raises:
        FolderInUseError: another server works on the folder.
        StoreVersionError: a newer version of this program has written it.
    """
    async with contextlib.AsyncExitStack() as stack:
        if not is_locked:
            await stack.enter_async_context(locked_folder(data_dir))
        files = PictureFiles(data_dir / "files")
        stack.push_async_callback(files.close)
        await files.open()
        store = await JobStore.open(data_dir / "jobs.sqlite3")
        stack.push_async_callback(store.close)
        events = JobEvents(store.generation, store.get)
        dispatcher = Dispatcher(store, files, events, replica, make_order, settings, now, on_failure)
        jobs = Jobs(store, files, events, dispatcher)
        stack.push_async_callback(jobs.drain)
        await jobs._restore(now())
        dispatcher.start()
        sweeping = asyncio.create_task(Sweeper(store, files, events, retention, now).run(), name="sweeper")
        stack.push_async_callback(_stop_task, sweeping)
        yield jobs


async def _stop_task(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
