"""Jobs that wait for a replica or keep it busy: in memory, without I/O."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from instgenie_server.jobs.job import Job
from instgenie_server.jobs.queue_order import OrderKey, order_key


@dataclass(frozen=True, slots=True)
class Ticket:
    """A job's place in the queue."""

    key: OrderKey
    job_id: str
    predicted_seconds: float
    deadline_at: float | None = None

    @classmethod
    def of(cls, job: Job) -> Ticket:
        """The job's ticket."""
        key = order_key(job.id, job.priority, job.created_at)
        return cls(key, job.id, job.predicted_seconds, job.deadline_at)


class JobQueue:
    """Waiting and running jobs; ids are unique among both."""

    def __init__(self) -> None:
        self._waiting: list[OrderKey] = []  # sorted
        self._tickets: dict[str, Ticket] = {}  # of the waiting ones
        self._running: dict[str, Ticket] = {}
        self._shares: dict[str, float] = {}  # of the running ones: how much of each is done, 0..1

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, ticket: Ticket) -> None:
        """Let it wait."""
        assert ticket.job_id not in self._tickets
        assert ticket.job_id not in self._running
        bisect.insort(self._waiting, ticket.key)
        self._tickets[ticket.job_id] = ticket

    def take(self) -> Ticket | None:
        """The next one, which runs from now on; None where none waits."""
        if not self._waiting:
            return None
        ticket = self._tickets.pop(self._waiting.pop(0)[-1])
        self._running[ticket.job_id] = ticket
        return ticket

    def remove(self, job_id: str) -> bool:
        """Give up waiting; whether it did wait."""
        ticket = self._tickets.pop(job_id, None)
        if ticket is None:
            return False
        del self._waiting[bisect.bisect_left(self._waiting, ticket.key)]
        return True

    def progress(self, job_id: str, share: float) -> None:
        """Note how much of a running job is done, 0..1."""
        if job_id in self._running:
            self._shares[job_id] = share

    def leave(self, job_id: str) -> None:
        """A running job leaves the replica."""
        del self._running[job_id]
        self._shares.pop(job_id, None)

    def position(self, job_id: str) -> int | None:
        """1 for the next one to run, 0 for one that runs, None for others."""
        ticket = self._tickets.get(job_id)
        if ticket is not None:
            return bisect.bisect_left(self._waiting, ticket.key) + 1
        return 0 if job_id in self._running else None

    def seconds(self) -> float:
        """Predicted work of all that wait, and what is left of those that run."""
        waiting = sum(ticket.predicted_seconds for ticket in self._tickets.values())
        running = sum(
            ticket.predicted_seconds * (1 - self._shares.get(job_id, 0.0)) for job_id, ticket in self._running.items()
        )
        return waiting + running
