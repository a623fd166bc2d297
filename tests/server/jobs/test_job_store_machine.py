"""The job table against a dictionary: any sequence of calls and restarts gives the same answers."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from instgenie_server.jobs.errors import IdempotencyConflictError
from instgenie_server.jobs.job import MAX_ATTEMPTS, Job, JobState
from instgenie_server.jobs.job_store import JobStore
from instgenie_server.jobs.queue_order import order_key
from tests.server.jobs.fakes import a_job

T = TypeVar("T")
TENANTS = st.sampled_from(["ann", "bob"])
KEYS = st.sampled_from([None, "k", "l"])
ENDS = st.sampled_from([state for state in JobState if state.is_end])


class StoreMachine(RuleBasedStateMachine):
    """Calls of any kind on known and unknown jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.jobs: dict[str, Job] = {}
        self.now = 1000.0

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def a_known_one(self, data: st.DataObject) -> Job:
        return self.jobs[data.draw(st.sampled_from(sorted(self.jobs)))]

    def put(self, job: Job, **changes: Any) -> Job:
        self.jobs[job.id] = replace(job, **changes)
        return self.jobs[job.id]

    @initialize()
    def open(self) -> None:
        self.store = self.run(JobStore.open(Path(self.folder.name) / "jobs.sqlite3"))

    @rule()
    def restart(self) -> None:
        self.run(self.store.close())
        generation = self.store.generation
        self.open()
        assert self.store.generation == generation + 1
        requeued, failed = self.run(self.store.requeue_unfinished(self.now))
        running = [job for job in self.jobs.values() if job.state is JobState.RUNNING]
        for job in running:
            if job.attempts < MAX_ATTEMPTS:
                assert self.put(job, state=JobState.QUEUED) in requeued
            else:
                (after,) = [other for other in failed if other.id == job.id]
                assert self.put(job, state=JobState.FAILED, finished_at=self.now, detail=after.detail) == after
        assert len(requeued) + len(failed) == len(running)

    @rule(
        tenant=TENANTS, key=KEYS, digest=st.sampled_from("de"), created_at=st.floats(0, 99), priority=st.integers(0, 3)
    )
    def add(self, tenant: str, key: str | None, digest: str, created_at: float, priority: int) -> None:
        job = a_job(tenant=tenant, idempotency_key=key, request_digest=digest, created_at=created_at, priority=priority)
        same_key = [
            other for other in self.jobs.values() if key and (other.tenant, other.idempotency_key) == (tenant, key)
        ]
        if same_key and same_key[0].request_digest != digest:
            with pytest.raises(IdempotencyConflictError):
                self.run(self.store.add(job))
            return
        expected = same_key[0] if same_key else self.put(job)
        assert self.run(self.store.add(job)) == expected

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        job = self.a_known_one(data)
        claimed = self.run(self.store.claim(job.id, self.now))
        if job.state is JobState.QUEUED:
            changes = {"state": JobState.RUNNING, "attempts": job.attempts + 1, "started_at": self.now}
            assert claimed == self.put(job, **changes)
        else:
            assert claimed is None

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), counts=st.booleans())
    def requeue(self, data: st.DataObject, counts: bool) -> None:
        job = self.a_known_one(data)
        requeued = self.run(self.store.requeue(job.id, counts=counts))
        if job.state is JobState.RUNNING:
            assert requeued == self.put(job, state=JobState.QUEUED, attempts=job.attempts - (not counts))
        else:
            assert requeued is None

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), end=ENDS)
    def finish(self, data: st.DataObject, end: JobState) -> None:
        job = self.a_known_one(data)
        result = "digest" if end is JobState.DONE else None
        finished = self.run(self.store.finish(job.id, end, self.now, {"code": "c"}, result))
        if job.state is JobState.RUNNING or (job.state is JobState.QUEUED and end is not JobState.DONE):
            changes = {"state": end, "finished_at": self.now, "detail": {"code": "c"}, "result": result}
            assert finished == self.put(job, **changes)
        else:
            assert finished is None

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.jobs))))
        ended = {job_id for job_id in chosen if self.jobs[job_id].state.is_end}
        assert self.run(self.store.delete(chosen)) == ended
        for job_id in ended:
            del self.jobs[job_id]

    @rule(tenant=TENANTS, limit=st.integers(1, 4), state=st.none() | st.sampled_from(JobState))
    def page_through(self, tenant: str, limit: int, state: JobState | None) -> None:
        expected = sorted(
            (job for job in self.jobs.values() if job.tenant == tenant and state in (None, job.state)),
            key=lambda job: (job.created_at, job.id),
            reverse=True,
        )
        listed: list[Job] = []
        cursor = None
        while True:
            page = self.run(self.store.page(tenant, limit, cursor, state))
            listed += page.jobs
            cursor = page.next_cursor
            if cursor is None:
                break
        assert listed == expected

    @invariant()
    def agrees(self) -> None:
        self.now += 1
        if not hasattr(self, "store"):
            return
        for job in self.jobs.values():
            assert self.run(self.store.get(job.id)) == job
        queued = [job for job in self.jobs.values() if job.state is JobState.QUEUED]
        by_order = sorted(queued, key=lambda job: order_key(job.id, job.priority, job.created_at))
        assert self.run(self.store.queued()) == by_order
        counts = self.run(self.store.counts())
        assert counts == {state: sum(job.state is state for job in self.jobs.values()) for state in JobState}

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self.store.close())
        self.runner.close()
        self.folder.cleanup()


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
