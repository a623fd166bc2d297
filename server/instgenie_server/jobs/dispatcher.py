"""Takes waiting jobs in their order and runs them on a replica.

A job's end is stored before it is told, and its result before its end: whoever learns that it is done can read it.
The store gives out every end but once, so of a cancel, a deadline and a result that meet, the first one counts and the
others come to nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from instgenie.errors import DeadlineError, ReplicaAwayError, ReplicaError, ReplicaLostError
from instgenie.orders import EditOrder, EditOutcome, Replica, StepReport
from instgenie_server.jobs.errors import JobStoreError, PictureFileError
from instgenie_server.jobs.event_log import EventKind
from instgenie_server.jobs.failure import exhausted, lasting_failure
from instgenie_server.jobs.job import MAX_ATTEMPTS, Job, JobState
from instgenie_server.jobs.job_events import JobEvents
from instgenie_server.jobs.job_queue import JobQueue, Ticket
from instgenie_server.jobs.job_store import JobStore
from instgenie_server.jobs.kept_tasks import KeptTasks
from instgenie_server.jobs.picture_files import PictureFiles

log = logging.getLogger(__name__)

T = TypeVar("T")
ReadPicture = Callable[[str], Awaitable[bytes]]
MakeOrder = Callable[[Job, ReadPicture], AbstractAsyncContextManager[EditOrder]]


@dataclass(frozen=True, slots=True)
class DispatcherSettings:
    """How jobs are run.

    Attributes:
        concurrency: how many are on the replica at the same time: more than it takes into one batch, so that it has
            some to choose from, and few enough that a job of high priority does not wait long for its turn.
        grace_seconds: how long running jobs may go on once the server stops.
        stop_seconds: how long those that were then cancelled may take to stop.
        retry_seconds: pause before a second attempt; twice as long before each further one.
        storage_seconds: pause before storing is tried again, where the disk is full or fails.
    """

    concurrency: int
    grace_seconds: float = 10.0
    stop_seconds: float = 5.0
    retry_seconds: float = 1.0
    storage_seconds: float = 5.0


@dataclass(slots=True, eq=False)
class _Run:
    """A job that has left the queue."""

    work: asyncio.Task[EditOutcome] | None = None
    report: StepReport | None = None
    is_over: bool = False  # the job has its end
    wake: asyncio.Event = field(default_factory=asyncio.Event)  # there is nothing to wait for any more

    def end(self) -> None:
        self.is_over = True
        self.wake.set()
        self.stop()

    def stop(self) -> None:
        if self.work is not None:
            self.work.cancel()


class Dispatcher:
    """Runs jobs. All methods belong to one event loop."""

    def __init__(
        self,
        store: JobStore,
        files: PictureFiles,
        events: JobEvents,
        replica: Replica,
        make_order: MakeOrder,
        settings: DispatcherSettings,
        now: Callable[[], float] = time.time,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """Args:
        now: seconds since 1970.
        on_failure: called with each job whose last attempt came to nothing, through no fault of its own.
        """
        self._store, self._files, self._events = store, files, events
        self._replica, self._make_order = replica, make_order
        self._settings, self._now, self._on_failure = settings, now, on_failure
        self._is_held_up = False
        self._queue = JobQueue()
        self._runs: dict[str, _Run] = {}
        self._deadlines: dict[str, asyncio.TimerHandle] = {}
        self._arrived = asyncio.Event()
        self._stopping = asyncio.Event()
        self._slots: list[asyncio.Task[None]] = []
        self._tasks = KeptTasks()

    def start(self) -> None:
        """Begin to run jobs."""
        self._slots = [
            self._tasks.start(self._serve_slot(), f"slot {number} of the dispatcher")
            for number in range(self._settings.concurrency)
        ]

    async def stop(self) -> None:
        """Take no more jobs; let the running ones finish within the grace period, and put back those that do not."""
        self._stopping.set()
        self._arrived.set()
        for run in self._runs.values():
            run.wake.set()
        if self._slots:
            _, late = await asyncio.wait(self._slots, timeout=self._settings.grace_seconds)
            for run in self._runs.values():
                run.stop()
            if late:
                await asyncio.wait(late, timeout=self._settings.stop_seconds)
        for timer in self._deadlines.values():
            timer.cancel()
        await self._tasks.close(self._settings.stop_seconds)

    def hold_up(self, *, held_up: bool) -> None:
        """Begin no jobs for as long as it is so: they stay in the queue."""
        self._is_held_up = held_up
        self._arrived.set()

    def add(self, job: Job) -> None:
        """Let a stored, queued job, whose event log is open, wait for its turn; once stopping, for the next start."""
        if self._stopping.is_set():
            return
        self._queue.add(Ticket.of(job))
        if job.deadline_at is not None and job.id not in self._deadlines:
            delay = max(0.0, job.deadline_at - self._now())
            self._deadlines[job.id] = asyncio.get_running_loop().call_later(delay, self._on_deadline, job.id)
        self.tell_position(job.id)
        self._tell_positions()
        self._arrived.set()

    def position(self, job_id: str) -> int | None:
        """1 for the next job to run, 0 for one that runs, None for others."""
        return self._queue.position(job_id)

    def tell_position(self, job_id: str) -> None:
        """Publish where the job waits, if it does: positions are not kept up to date while nobody watches."""
        position = self._queue.position(job_id)
        if position:
            self._events.publish(job_id, EventKind.QUEUED, {"position": position})

    def progress(self, job_id: str) -> StepReport | None:
        """The last step of a running job, without its preview; None before the first."""
        run = self._runs.get(job_id)
        return None if run is None else run.report

    def queued_seconds(self) -> float:
        """Predicted work of all waiting jobs, and what is left of the running ones."""
        return self._queue.seconds()

    async def cancel(self, job_id: str) -> Job | None:
        """End the job as cancelled; None where it has an end already. A running one stops at its next step."""
        return await self._end(job_id, JobState.CANCELLED, {"message": "cancelled by the client", "code": "cancelled"})

    def _on_deadline(self, job_id: str) -> None:
        self._tasks.start(self._expire(job_id), f"the deadline of {job_id}")

    async def _expire(self, job_id: str) -> None:
        detail = {"message": "the edit could not be done by its deadline", "code": "expired"}
        await self._until_stored(lambda: self._end(job_id, JobState.EXPIRED, detail))

    async def _end(self, job_id: str, state: JobState, detail: dict[str, Any], result: str | None = None) -> Job | None:
        """Give the job its end, stop what is done for it, tell those who watch; None where it had an end."""
        ended = await self._store.finish(job_id, state, self._now(), detail, result)
        is_ours = ended is not None
        if ended is None:  # another end came first; that it is told may rest on us, if storing it seemed to fail
            ended = await self._store.get(job_id)
            if ended is None or not ended.state.is_end:
                return None
        timer = self._deadlines.pop(job_id, None)
        if timer is not None:
            timer.cancel()
        run = self._runs.get(job_id)
        if run is not None:
            run.end()
        elif self._queue.remove(job_id):
            self._tell_positions()
        self._events.publish_end(ended)
        return ended if is_ours else None

    async def _serve_slot(self) -> None:
        """One job after the other."""
        while not self._stopping.is_set():
            ticket = None if self._is_held_up else self._queue.take()
            if ticket is None:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            run = self._runs[ticket.job_id] = _Run()
            again: Job | None = None
            try:
                self._tell_positions()
                again = await self._serve(ticket, run)
            except Exception:  # no job may take the slot with it; this one is run again after a restart
                log.exception("job %s was left unfinished", ticket.job_id)
            finally:
                del self._runs[ticket.job_id]
                self._queue.leave(ticket.job_id)
            if again is not None:
                self.add(again)

    async def _serve(self, ticket: Ticket, run: _Run) -> Job | None:
        """Bring a job to its end, or return it where it is to be queued again."""
        if ticket.deadline_at is not None and ticket.deadline_at <= self._now():
            await self._expire(ticket.job_id)
            return None
        job = await self._until_stored(lambda: self._store.claim(ticket.job_id, self._now()))
        if job is None:  # it was given its end meanwhile
            return None
        if self._stopping.is_set():
            await self._store.requeue(job.id, counts=False)
            return None
        self._events.publish(job.id, EventKind.STARTED, {"attempt": job.attempts})
        run.work = self._tasks.keep(self._edit(job, run), f"edit {job.id}")
        try:
            await asyncio.wait({run.work})
        finally:
            run.stop()
        error = ReplicaError("the replica gave the edit up") if run.work.cancelled() else run.work.exception()
        if run.is_over:
            return None
        if error is None:
            await self._store_result(job, run.work.result())
            return None
        if self._stopping.is_set():
            await self._store.requeue(job.id, counts=False)
            return None
        return await self._after_error(job, run, error)

    async def _edit(self, job: Job, run: _Run) -> EditOutcome:
        def report(step: StepReport) -> None:
            run.report = dataclasses.replace(step, preview=None)
            self._queue.progress(job.id, step.step / step.steps)
            data = {"step": step.step, "steps": step.steps}
            self._events.publish(job.id, EventKind.STEP, data, step.preview)

        async with self._make_order(job, self._files.read) as order:
            if job.deadline_at is not None:
                order = dataclasses.replace(order, deadline_seconds=max(0.0, job.deadline_at - self._now()))
            return await self._replica.edit(order, report)

    async def _store_result(self, job: Job, outcome: EditOutcome) -> None:
        detail = {
            "width": outcome.width,
            "height": outcome.height,
            "timings": dataclasses.asdict(outcome.timings),
        }
        with self._files.hold() as hold:
            result = await self._until_stored(lambda: hold.write(outcome.image))
            await self._until_stored(lambda: self._end(job.id, JobState.DONE, detail, result))

    async def _after_error(self, job: Job, run: _Run, error: BaseException) -> Job | None:
        if isinstance(error, DeadlineError):
            await self._expire(job.id)
            return None
        if isinstance(error, ReplicaAwayError):  # it went while the order was made: that was no attempt
            return await self._until_stored(lambda: self._store.requeue(job.id, counts=False))
        failure, is_exhausted = lasting_failure(error), False
        if failure is None:
            unforeseen = None if isinstance(error, ReplicaLostError) else error
            log.warning("attempt %d at job %s failed: %s", job.attempts, job.id, error, exc_info=unforeseen)
            if job.attempts >= MAX_ATTEMPTS:
                failure, is_exhausted = exhausted(error), True
        if failure is not None:
            detail = failure
            ended = await self._until_stored(lambda: self._end(job.id, JobState.FAILED, detail))
            if is_exhausted and ended is not None:
                self._on_failure()
            return None
        # The slot waits, not the job alone: a replica that fails would only use up the attempts of the others too. One
        # that is gone holds up all of them, until it is back.
        if not isinstance(error, ReplicaLostError):
            await _pause(self._settings.retry_seconds * 2 ** (job.attempts - 1), run.wake)
        return await self._until_stored(lambda: self._store.requeue(job.id))

    def _tell_positions(self) -> None:
        """The queue has moved: tell those who watch waiting jobs."""
        for job_id in self._events.watched():
            self.tell_position(job_id)

    async def _until_stored(self, store: Callable[[], Awaitable[T]]) -> T:
        """Try until it is stored: an edit that was paid for must not be lost to a disk that is full for a while."""
        while True:
            try:
                return await store()
            except (JobStoreError, PictureFileError) as error:
                if self._stopping.is_set():
                    raise
                log.error("storing failed, it will be tried again: %s", error)
            await _pause(self._settings.storage_seconds, self._stopping)


async def _pause(seconds: float, wake: asyncio.Event) -> None:
    """Wait so long, or until woken."""
    try:
        async with asyncio.timeout(seconds):
            await wake.wait()
    except TimeoutError:
        return
