"""Watching jobs: replay, then follow until the end; nobody hangs, nobody misses the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from instgenie_server.jobs.event_log import END_ID, EventKind, JobEvent, end_event
from instgenie_server.jobs.job import Job, JobState
from instgenie_server.jobs.job_events import MAX_ENDED_LOGS, JobEvents
from tests.server.jobs.fakes import a_job

STEP, QUEUED = EventKind.STEP, EventKind.QUEUED


class Shelf:
    """Jobs as a store would find them."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}

    async def find(self, job_id: str) -> Job | None:
        return self.jobs.get(job_id)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def events(shelf: Shelf) -> JobEvents:
    return JobEvents(1, shelf.find)


def a_done_job(job_id: str = "j") -> Job:
    return a_job(id=job_id, state=JobState.DONE, detail={"width": 5}, result="r", finished_at=1.0)


async def all_of(watched: AsyncIterator[JobEvent]) -> list[JobEvent]:
    return [event async for event in watched]


async def seen_by(events: JobEvents, last_seen: int | None = None, job_id: str = "j") -> list[tuple[EventKind, object]]:
    async with asyncio.timeout(5):
        return [(event.kind, event.data.get("step")) for event in await all_of(events.subscribe(job_id, last_seen))]


async def test_follows_until_the_end(events: JobEvents) -> None:
    events.open("j")
    events.publish("j", QUEUED, {"position": 1})
    watched = events.subscribe("j")
    assert (await anext(watched)).kind is QUEUED
    for step in range(3):
        events.publish("j", STEP, {"step": step})
        event = await anext(watched)
        assert (event.kind, event.data) == (STEP, {"step": step})
    waiting = asyncio.create_task(all_of(watched))
    await asyncio.sleep(0)
    assert not waiting.done()
    events.publish("j", STEP, {"step": 3})
    events.publish_end(a_done_job())
    events.publish("j", STEP, {"step": 4})  # late
    events.publish_end(a_job(id="j", state=JobState.FAILED))  # later still
    assert [event.kind for event in await waiting] == [STEP, EventKind.DONE]


async def test_resumes_after_the_last_one_seen(events: JobEvents) -> None:
    events.open("j")
    for step in range(4):
        events.publish("j", STEP, {"step": step})
    async with contextlib.aclosing(events.subscribe("j")) as watched:
        second = [await anext(watched) for _ in range(2)][1]
    events.publish_end(a_done_job())
    rest = [(STEP, 2), (STEP, 3), (EventKind.DONE, None)]
    assert await seen_by(events, second.id) == rest
    assert await seen_by(events) == [(STEP, 0), (STEP, 1), *rest]
    assert await seen_by(events, END_ID) == []


async def test_a_slow_watcher_misses_steps_not_the_end(events: JobEvents) -> None:
    events.open("j")
    async with contextlib.aclosing(events.subscribe("j")) as watched:
        events.publish("j", STEP, {"step": 0})
        await anext(watched)
        for step in range(1, 1000):
            events.publish("j", STEP, {"step": step}, b"preview")
        events.publish_end(a_done_job())
        rest = await all_of(watched)
    assert len(rest) < 100
    assert rest[-2].data == {"step": 999}
    assert rest[-1] == end_event(a_done_job())


@pytest.mark.parametrize("last_seen", [None, 1, (1 << 24) + 5])
async def test_finished_before_the_restart(shelf: Shelf, last_seen: int | None) -> None:
    shelf.jobs["j"] = a_done_job()
    events = JobEvents(2, shelf.find)
    assert await all_of(events.subscribe("j", last_seen)) == [end_event(a_done_job())]
    assert await seen_by(events, END_ID) == []


async def test_resumed_across_the_restart(events: JobEvents, shelf: Shelf) -> None:
    events.open("j")
    for step in range(20):
        events.publish("j", STEP, {"step": step})
    async with contextlib.aclosing(events.subscribe("j")) as watched:
        last_seen = [(await anext(watched)).id for _ in range(20)][-1]
    after = JobEvents(2, shelf.find)
    after.open("j")
    after.publish("j", QUEUED, {"position": 1})  # fewer events than the client has seen
    task = asyncio.create_task(seen_by(after, last_seen))
    await asyncio.sleep(0)
    after.publish("j", STEP, {"step": 0})
    after.publish_end(a_done_job())
    assert await task == [(QUEUED, None), (STEP, 0), (EventKind.DONE, None)]


async def test_of_jobs_that_ended_long_ago_the_end_is_left(events: JobEvents, shelf: Shelf) -> None:
    for number in range(MAX_ENDED_LOGS + 1):
        job = shelf.jobs[f"j{number}"] = a_done_job(f"j{number}")
        events.open(job.id)
        events.publish(job.id, STEP, {"step": 0})
        events.publish_end(job)
    assert await seen_by(events, job_id="j0") == [(EventKind.DONE, None)]
    assert await seen_by(events, job_id="j1") == [(STEP, 0), (EventKind.DONE, None)]
    events.discard("j1")
    assert await seen_by(events, job_id="j1") == [(EventKind.DONE, None)]
    assert await seen_by(events, job_id="unknown") == []


async def test_closing_lets_watchers_go(events: JobEvents) -> None:
    events.open("j")
    events.publish("j", QUEUED, {"position": 1})
    task = asyncio.create_task(seen_by(events))
    await asyncio.sleep(0)
    events.close()
    assert await task == [(QUEUED, None)]
    assert await seen_by(events) == [(QUEUED, None)]


async def test_who_is_watched(events: JobEvents) -> None:
    events.open("j")
    events.publish("j", QUEUED, {"position": 1})
    assert events.watched() == []
    async with contextlib.aclosing(events.subscribe("j")) as first:
        await anext(first)
        async with contextlib.aclosing(events.subscribe("j")) as second:
            await anext(second)
        assert events.watched() == ["j"]
    assert events.watched() == []
