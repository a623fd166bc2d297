"""Events of jobs for those who watch them: replayed from where a watcher left off, then followed until the end."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from instgenie_server.jobs.event_log import END_ID, EventKind, EventLog, JobEvent, end_event
from instgenie_server.jobs.job import Job

MAX_ENDED_LOGS = 256

FindJob = Callable[[str], Awaitable[Job | None]]


@dataclass(slots=True, eq=False)
class _Watched:
    """A log, and what wakes those who follow it: each change sets the event and puts a new one in its place."""

    log: EventLog
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class JobEvents:
    """The logs of all unfinished jobs and of the last `MAX_ENDED_LOGS` finished ones.

    A watcher holds no queue, only the id of the event that it saw last: one that reads slowly takes no memory, and
    misses the steps that made room meanwhile, never the end.
    """

    def __init__(self, generation: int, find_job: FindJob) -> None:
        self._generation = generation
        self._find_job = find_job
        self._unfinished: dict[str, _Watched] = {}
        self._ended: OrderedDict[str, _Watched] = OrderedDict()
        self._watchers: Counter[str] = Counter()
        self._is_closed = False

    def open(self, job_id: str) -> None:
        """Begin a job's log: to be done before others can know of the job, so that one without a log has ended."""
        assert job_id not in self._unfinished
        self._unfinished[job_id] = _Watched(EventLog(self._generation))

    def discard(self, job_id: str) -> None:
        """Forget a job's log: it was not accepted after all, or it is no longer kept."""
        self._unfinished.pop(job_id, None)
        self._ended.pop(job_id, None)

    def publish(self, job_id: str, kind: EventKind, data: Mapping[str, Any], preview: bytes | None = None) -> None:
        """Tell what happened; of a job that has ended nothing more is told."""
        watched = self._unfinished.get(job_id)
        if watched is not None:
            watched.log.append(kind, data, preview)
            watched.wake()

    def publish_end(self, job: Job) -> None:
        """Tell the end; a second one is ignored."""
        watched = self._unfinished.pop(job.id, None)
        if watched is not None:
            watched.log.end(job)
            watched.wake()
            self._ended[job.id] = watched
            if len(self._ended) > MAX_ENDED_LOGS:
                self._ended.popitem(last=False)

    def watched(self) -> list[str]:
        """The jobs that somebody watches."""
        return list(self._watchers)

    async def subscribe(self, job_id: str, last_seen: int | None = None) -> AsyncGenerator[JobEvent, None]:
        """What came after the event `last_seen`, and what comes, until the end or until the server stops.

        It is complete for a job whose log is kept; of one that ended longer ago it is the end alone. Nothing at all
        comes where the end is what was seen last.
        """
        watched = self._unfinished.get(job_id) or self._ended.get(job_id)
        if watched is None:
            job = await self._find_job(job_id)
            if job is not None and job.state.is_end and last_seen != END_ID:
                yield end_event(job)
            return
        seen = watched.log.resume_after(last_seen)
        self._watchers[job_id] += 1
        try:
            while True:
                changed = watched.changed
                for event in watched.log.later_than(seen):
                    seen = event.id
                    yield event
                if seen == END_ID or self._is_closed:
                    return
                await changed.wait()
        finally:
            self._watchers -= Counter([job_id])

    def close(self) -> None:
        """Let all who watch go: the server stops."""
        self._is_closed = True
        for watched in self._unfinished.values():
            watched.wake()
