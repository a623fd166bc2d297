"""The queue in memory against lists that are searched from end to end."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from instgenie_server.jobs.job_queue import JobQueue, Ticket
from instgenie_server.jobs.queue_order import order_key
from tests.server.jobs.fakes import a_job


class QueueMachine(RuleBasedStateMachine):
    """Adds, takes, removes and leaves in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = JobQueue()
        self.waiting: list[Ticket] = []
        self.running: dict[str, tuple[Ticket, float]] = {}

    @rule(priority=st.integers(-2, 2), created_at=st.floats(0, 200), seconds=st.floats(0, 10))
    def add(self, priority: int, created_at: float, seconds: float) -> None:
        job = a_job(priority=priority, created_at=created_at, predicted_seconds=seconds)
        ticket = Ticket.of(job)
        assert ticket.key == order_key(job.id, priority, created_at)
        self.queue.add(ticket)
        self.waiting = sorted([*self.waiting, ticket], key=lambda ticket: ticket.key)

    @rule()
    def take(self) -> None:
        expected = self.waiting.pop(0) if self.waiting else None
        assert self.queue.take() == expected
        if expected is not None:
            self.running[expected.job_id] = (expected, 0.0)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        assert self.queue.remove(ticket.job_id)
        assert not self.queue.remove(ticket.job_id)
        self.waiting.remove(ticket)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), share=st.floats(0, 1))
    def progress(self, data: st.DataObject, share: float) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.running)))
        self.queue.progress(job_id, share)
        self.running[job_id] = (self.running[job_id][0], share)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.running)))
        self.queue.leave(job_id)
        del self.running[job_id]
        self.queue.progress(job_id, 0.5)  # a late report
        assert self.queue.position(job_id) is None

    @invariant()
    def agrees(self) -> None:
        assert len(self.queue) == len(self.waiting)
        for position, ticket in enumerate(self.waiting, start=1):
            assert self.queue.position(ticket.job_id) == position
        for job_id in self.running:
            assert self.queue.position(job_id) == 0
            assert not self.queue.remove(job_id)
        expected = sum(ticket.predicted_seconds for ticket in self.waiting)
        expected += sum(ticket.predicted_seconds * (1 - share) for ticket, share in self.running.values())
        assert self.queue.seconds() == pytest.approx(expected)


TestQueue = QueueMachine.TestCase
