"""The job table: durable, ordered, an end at most once, errors in our terms."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from instgenie_server.jobs.errors import CursorError, IdempotencyConflictError, JobStoreError, StoreVersionError
from instgenie_server.jobs.job import MAX_ATTEMPTS, Job, JobState
from instgenie_server.jobs.job_store import JobStore, KeptJob
from tests.server.jobs.bench import a_store
from tests.server.jobs.fakes import a_job

NOW = 5000.0
DONE, FAILED, CANCELLED = JobState.DONE, JobState.FAILED, JobState.CANCELLED


async def in_file(path: Path, statement: str) -> list[tuple[object, ...]]:
    """What another connection sees."""

    def execute() -> list[tuple[object, ...]]:
        connection = sqlite3.connect(path)
        try:
            with connection:
                return connection.execute(statement).fetchall()
        finally:
            connection.close()

    return await asyncio.to_thread(execute)


async def test_life_of_a_job(store: JobStore) -> None:
    job = a_job(deadline_at=9000.0, priority=3, mask="m", params={"prompt": "\ud83d", "seed": 7})
    assert await store.add(job) == job
    running = await store.claim(job.id, NOW)
    assert running == replace(job, state=JobState.RUNNING, attempts=1, started_at=NOW)
    assert await store.claim(job.id, NOW) is None
    done = await store.finish(job.id, DONE, NOW + 1, {"width": 5}, "digest")
    assert done == replace(running, state=DONE, finished_at=NOW + 1, detail={"width": 5}, result="digest")
    assert await store.get(job.id) == done
    for end in (DONE, FAILED, CANCELLED, JobState.EXPIRED):
        assert await store.finish(job.id, end, NOW + 2, {}, "other" if end is DONE else None) is None
    assert await store.requeue(job.id) is None
    assert await store.get(job.id) == done
    assert await store.get("another") is None


async def test_only_a_running_job_can_be_done(store: JobStore) -> None:
    job = await store.add(a_job())
    assert await store.finish(job.id, DONE, NOW, {}, "digest") is None
    assert await store.finish(job.id, CANCELLED, NOW, {}) is not None
    assert await store.claim(job.id, NOW) is None


async def test_attempts_that_count_and_that_do_not(store: JobStore) -> None:
    job = await store.add(a_job())
    for counts, attempts in ((True, 1), (False, 1), (True, 2)):
        assert await store.claim(job.id, NOW) is not None
        requeued = await store.requeue(job.id, counts=counts)
        assert requeued is not None
        assert (requeued.state, requeued.attempts) == (JobState.QUEUED, attempts)
    assert await store.requeue(job.id) is None


async def test_start_takes_up_what_ran(tmp_path: Path) -> None:
    async with a_store(tmp_path, JobStore) as store:
        waiting, ran, exhausted, done = [await store.add(a_job()) for _ in range(4)]
        for job in (ran, exhausted, done):
            await store.claim(job.id, NOW)
        await store.finish(done.id, DONE, NOW, {}, "digest")
        for _ in range(MAX_ATTEMPTS - 1):
            await store.requeue(exhausted.id)
            await store.claim(exhausted.id, NOW)
    async with a_store(tmp_path, JobStore) as again:
        assert again.generation == store.generation + 1
        requeued, failed = await again.requeue_unfinished(NOW + 1)
        assert [job.id for job in requeued] == [ran.id]
        assert [(job.id, job.state, job.detail["code"]) for job in failed] == [(exhausted.id, FAILED, "interrupted")]
        assert [job.id for job in await again.queued()] == [waiting.id, ran.id]
        assert await again.requeue_unfinished(NOW + 1) == ([], [])
        counts = await again.counts()
    assert {state: count for state, count in counts.items() if count} == {JobState.QUEUED: 2, FAILED: 1, DONE: 1}
    assert set(counts) == set(JobState)


async def test_queued_are_in_their_order(store: JobStore) -> None:
    late, urgent, early = a_job(created_at=20.0), a_job(created_at=21.0, priority=1), a_job(created_at=10.0)
    for job in (late, urgent, early):
        await store.add(job)
    assert [job.id for job in await store.queued()] == [urgent.id, early.id, late.id]


async def test_idempotency_keys(store: JobStore) -> None:
    job = await store.add(a_job(idempotency_key="k", request_digest="d"))
    assert await store.add(a_job(idempotency_key="k", request_digest="d")) == job
    with pytest.raises(IdempotencyConflictError, match=f"'k' belongs to another request, {job.id}"):
        await store.add(a_job(idempotency_key="k", request_digest="other"))
    of_another = a_job(tenant="bob", idempotency_key="k", request_digest="other")
    assert await store.add(of_another) == of_another
    for _ in range(2):
        without = a_job(request_digest="d")
        assert await store.add(without) == without
    await store.finish(job.id, CANCELLED, NOW, {})
    assert (await store.add(a_job(idempotency_key="k", request_digest="d"))).state is CANCELLED
    await store.delete([job.id])
    anew = a_job(idempotency_key="k", request_digest="other")
    assert await store.add(anew) == anew


async def test_same_key_at_the_same_time_is_accepted_once(store: JobStore) -> None:
    jobs = [a_job(idempotency_key="k", request_digest="d") for _ in range(20)]
    stored = await asyncio.gather(*map(store.add, jobs))
    assert len({job.id for job in stored}) == 1
    assert (await store.counts())[JobState.QUEUED] == 1


async def test_a_meeting_of_ends_has_one_winner(store: JobStore) -> None:
    job = await store.add(a_job())
    await store.claim(job.id, NOW)
    ends = [(DONE, "digest"), (CANCELLED, None), (JobState.EXPIRED, None), (FAILED, None)] * 3
    answers = await asyncio.gather(*(store.finish(job.id, end, NOW, {}, result) for end, result in ends))
    (winner,) = [answer for answer in answers if answer is not None]
    assert await store.get(job.id) == winner


async def pages(store: JobStore, limit: int, forget: Callable[[Job], bool] = lambda _: False) -> list[str]:
    ids: list[str] = []
    cursor = None
    while True:
        page = await store.page("ann", limit, cursor)
        ids += [job.id for job in page.jobs]
        if page.next_cursor is None:
            return ids
        assert len(page.jobs) == limit
        cursor = page.next_cursor
        await store.delete([job.id for job in page.jobs if forget(job)])


async def test_pages_newest_first(store: JobStore) -> None:
    jobs = [await store.add(a_job(created_at=float(number // 3))) for number in range(10)]
    await store.add(a_job(tenant="bob"))
    newest_first = [job.id for job in reversed(jobs)]  # ids break ties
    for limit in (1, 3, 9, 10, 11):
        assert await pages(store, limit) == newest_first
    page = await store.page("ann", 3)
    await store.add(a_job())
    assert [job.id for job in (await store.page("ann", 3, page.next_cursor)).jobs] == newest_first[3:6]
    assert (await store.page("nobody", 3)).jobs == ()


async def test_pages_go_on_though_their_last_job_was_deleted(store: JobStore) -> None:
    jobs = [await store.add(a_job()) for _ in range(6)]
    for job in jobs:
        await store.finish(job.id, CANCELLED, NOW, {})
    assert await pages(store, 2, forget=lambda _: True) == [job.id for job in reversed(jobs)]


async def test_pages_of_one_state(store: JobStore) -> None:
    jobs = [await store.add(a_job()) for _ in range(6)]
    for job in jobs[::2]:
        await store.finish(job.id, CANCELLED, NOW, {})
    page = await store.page("ann", 2, state=CANCELLED)
    assert [job.id for job in page.jobs] == [jobs[4].id, jobs[2].id]
    page = await store.page("ann", 2, page.next_cursor, CANCELLED)
    assert ([job.id for job in page.jobs], page.next_cursor) == ([jobs[0].id], None)
    with pytest.raises(CursorError, match="'nonsense' is no cursor"):
        await store.page("ann", 2, "nonsense")


async def test_unfinished_jobs_are_not_deleted(store: JobStore) -> None:
    waiting, running, ended = [await store.add(a_job(image="i", mask="m")) for _ in range(3)]
    for job in (running, ended):
        await store.claim(job.id, NOW)
    await store.finish(ended.id, DONE, NOW, {}, "r")
    assert sorted(await store.kept(), key=lambda job: job.id) == [
        KeptJob(waiting.id, None, frozenset({"i", "m"})),
        KeptJob(running.id, None, frozenset({"i", "m"})),
        KeptJob(ended.id, NOW, frozenset({"i", "m", "r"})),
    ]
    assert await store.delete([waiting.id, running.id, ended.id, "another"]) == {ended.id}
    assert await store.get(ended.id) is None


async def test_every_commit_is_synced(store: JobStore) -> None:
    (synchronous,) = await store._rows("PRAGMA synchronous", ())
    (mode,) = await store._rows("PRAGMA journal_mode", ())
    assert (synchronous[0], mode[0]) == (2, "wal")  # 2: FULL


async def test_cancelled_callers_leave_nothing_open(store: JobStore, tmp_path: Path) -> None:
    for turns in range(4):
        task = asyncio.create_task(store.add(a_job()))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    job = await store.add(a_job())
    assert await in_file(tmp_path / "jobs.sqlite3", f"SELECT state FROM jobs WHERE id = '{job.id}'") == [("queued",)]


async def test_newer_table_is_refused(store: JobStore, tmp_path: Path) -> None:
    await store.close()
    path = tmp_path / "jobs.sqlite3"
    await in_file(path, "PRAGMA user_version = 99")
    with pytest.raises(StoreVersionError, match=r"is of version 99, this program knows up to 1: .* newer release"):
        await JobStore.open(path)
    assert await in_file(path, "PRAGMA user_version") == [(99,)]


@pytest.mark.parametrize("content", [b"no database at all" * 100, None])
async def test_what_is_no_table(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "jobs.sqlite3"
    await asyncio.to_thread(lambda: path.mkdir() if content is None else path.write_bytes(content))
    with pytest.raises(JobStoreError, match="failed at opening"):
        await JobStore.open(path)


async def test_full_table_refuses_and_serves_on(store: JobStore) -> None:
    job = await store.add(a_job())
    ((pages,),) = await store._rows("PRAGMA page_count", ())
    await store._rows(f"PRAGMA max_page_count = {pages + 2}", ())
    large = a_job(params={"prompt": 100_000 * "x", "seed": 0})
    with pytest.raises(JobStoreError, match=r"failed at INSERT: .*full"):
        await store.add(large)
    assert await store.get(large.id) is None
    assert await store.claim(job.id, NOW) is not None


async def test_closed_table(tmp_path: Path) -> None:
    store = await JobStore.open(tmp_path / "jobs.sqlite3")
    await store.close()
    with pytest.raises(JobStoreError, match="is closed"):
        await store.add(a_job())
