"""Jobs as routes use them: accepted durably, seen by their tenant alone, taken up after a restart."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import pytest_asyncio

from instgenie_server.jobs import (
    END_ID,
    DispatcherSettings,
    EventKind,
    FolderInUseError,
    IdempotencyConflictError,
    Job,
    JobEvent,
    Jobs,
    JobState,
    JobStoreError,
    open_jobs,
)
from instgenie_server.settings import RetentionSettings
from tests.server.jobs.bench import Gate, a_bench
from tests.server.jobs.fakes import FakeReplica, ManualReplica, SlowReplica, a_job, make_order, order_of, result_of

pytestmark = pytest.mark.timeout(30)

SETTINGS = DispatcherSettings(concurrency=1, grace_seconds=0, stop_seconds=5, retry_seconds=0, storage_seconds=0)


def opened(folder: Path, replica: FakeReplica) -> AbstractAsyncContextManager[Jobs]:
    return open_jobs(folder, replica, make_order, RetentionSettings(), SETTINGS)


@pytest.fixture
def replica() -> ManualReplica:
    return ManualReplica()


@pytest_asyncio.fixture
async def jobs(tmp_path: Path, replica: ManualReplica) -> AsyncIterator[Jobs]:
    async with opened(tmp_path, replica) as jobs:
        yield jobs


async def watch(jobs: Jobs, job: Job, last_seen: int | None = None) -> list[JobEvent]:
    events = await jobs.events(job.tenant, job.id, last_seen)
    assert events is not None
    async with contextlib.aclosing(events):
        return [event async for event in events]


async def test_the_way_of_a_job(jobs: Jobs, replica: ManualReplica) -> None:
    accepted = await jobs.submit(a_job(predicted_seconds=3.0), b"image", None)
    assert accepted.state is JobState.QUEUED
    assert await jobs.get("ann", accepted.id) is not None
    edit = await replica.started.get()
    assert (edit.order.picture.data, edit.order.mask) == (b"image", b"")
    assert (jobs.position(accepted.id), jobs.queued_seconds()) == (0, 3)
    edit.step(2)
    progress = jobs.progress(accepted.id)
    assert progress is not None
    assert (progress.step, jobs.queued_seconds()) == (2, 1.5)
    edit.succeed()
    kinds = [event.kind for event in await watch(jobs, accepted)]
    assert kinds == [EventKind.QUEUED, EventKind.STARTED, EventKind.STEP, EventKind.DONE]
    assert await jobs.result("ann", accepted.id) == result_of(edit.order)
    assert (await jobs.counts())[JobState.DONE] == 1
    page = await jobs.page("ann", 10)
    assert [job.id for job in page.jobs] == [accepted.id]


async def test_others_see_nothing(jobs: Jobs, replica: ManualReplica) -> None:
    job = await jobs.submit(a_job(), b"image", None)
    for tenant, job_id in (("bob", job.id), ("ann", "edit-unknown"), ("ann", "\ud83d")):
        assert await jobs.get(tenant, job_id) is None
        assert await jobs.cancel(tenant, job_id) is None
        assert await jobs.events(tenant, job_id) is None
        assert await jobs.result(tenant, job_id) is None
    assert (await jobs.page("bob", 10)).jobs == ()
    assert (await jobs.find(job.id)) is not None  # for those who may see it in another way
    (await replica.started.get()).succeed()
    await watch(jobs, job)
    assert await jobs.result("bob", job.id) is None


async def test_repeated_submission_is_accepted_once(jobs: Jobs, replica: ManualReplica) -> None:
    first, second = [
        await jobs.submit(a_job(idempotency_key="k", request_digest="d"), b"image", None) for _ in range(2)
    ]
    assert second.id == first.id
    with pytest.raises(IdempotencyConflictError):
        await jobs.submit(a_job(idempotency_key="k", request_digest="other"), b"image", None)
    (await replica.started.get()).succeed()
    assert (await watch(jobs, first))[-1].kind is EventKind.DONE
    third = await jobs.submit(a_job(idempotency_key="k", request_digest="d"), b"image", None)
    assert (third.id, third.state) == (first.id, JobState.DONE)
    assert replica.count == 1


async def test_a_known_key_writes_nothing(tmp_path: Path) -> None:
    async with a_bench(tmp_path, ManualReplica()) as bench:
        first = await bench.submit(idempotency_key="k", request_digest="d")
        kept = await bench.files.list()
        bench.files.failures = 1  # of the next write
        with pytest.raises(IdempotencyConflictError):
            await bench.jobs.submit(a_job(idempotency_key="k", request_digest="other"), b"another image", None)
        assert (await bench.submit(idempotency_key="k", request_digest="d")).id == first.id
        assert await bench.files.list() == kept
        assert bench.files.failures == 1


async def test_who_loses_the_race_for_a_key_leaves_no_files(tmp_path: Path) -> None:
    async with a_bench(tmp_path, ManualReplica()) as bench:
        await bench.submit(idempotency_key="k", request_digest="d")
        kept = set(await bench.files.list())
        for image, mask in ((b"another image", b"another mask"), (b"an image", b"another mask"), (b"another", None)):
            bench.store.overlooked = 1
            with pytest.raises(IdempotencyConflictError):
                await bench.jobs.submit(a_job(idempotency_key="k", request_digest="other"), image, mask)
            assert set(await bench.files.list()) == kept


async def test_what_is_not_stored_leaves_no_files(tmp_path: Path) -> None:
    async with a_bench(tmp_path, ManualReplica()) as bench:
        bench.store.is_full = True
        with pytest.raises(JobStoreError):
            await bench.submit()
        assert await bench.files.list() == {}


async def test_submission_is_carried_through_though_the_client_leaves(tmp_path: Path) -> None:
    """A job that is stored must not be left behind without its turn."""
    replica = ManualReplica()
    async with a_bench(tmp_path, replica) as bench:
        gate = bench.store.exit = Gate()
        job = a_job()
        task = asyncio.create_task(bench.jobs.submit(job, b"image", None))
        await gate.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.go.set()
        (await replica.started.get()).succeed()
        assert (await bench.end(job)).state is JobState.DONE


async def test_submission_that_cannot_be_stored(tmp_path: Path) -> None:
    async with a_bench(tmp_path, ManualReplica()) as bench:
        job = a_job()
        await bench.store.close()
        with pytest.raises(JobStoreError):
            await bench.jobs.submit(job, b"image", None)
        assert bench.dispatcher.position(job.id) is None
        bench.events.open(job.id)  # it was not left open


async def test_restart_takes_up_everything(tmp_path: Path) -> None:
    replica = ManualReplica()
    async with opened(tmp_path, replica) as jobs:
        done, running, waiting = [
            await jobs.submit(a_job(predicted_seconds=2.0), b"image %d" % number, b"mask") for number in range(3)
        ]
        (await replica.started.get()).succeed()
        await watch(jobs, done)
        edit = await replica.started.get()
        edit.step(1)
        seen = await jobs.events("ann", running.id)
        assert seen is not None
        last_seen = [(await anext(seen)).id for _ in range(3)][-1]
        await seen.aclose()
    async with opened(tmp_path, replica) as jobs:
        assert jobs.queued_seconds() == 4
        watching = asyncio.create_task(watch(jobs, running, last_seen))
        again = await replica.started.get()
        assert again.order == edit.order  # the same picture, mask, prompt and seed
        again.succeed()
        events = await watching
        assert events[-1].kind is EventKind.DONE
        assert all(event.id > last_seen for event in events)
        (await replica.started.get()).succeed()
        assert (await watch(jobs, waiting))[-1].kind is EventKind.DONE
        assert [event.kind for event in await watch(jobs, done, last_seen)] == [EventKind.DONE]
        assert await watch(jobs, done, END_ID) == []
        for job in (done, running, waiting):
            stored = await jobs.get("ann", job.id)
            assert stored is not None
            assert (stored.state, stored.attempts) == (JobState.DONE, 1)
            assert (await jobs.result("ann", job.id) or b"").startswith(b"result")
    assert replica.count == 4


async def test_stop_lets_watchers_go(tmp_path: Path, replica: ManualReplica) -> None:
    async with opened(tmp_path, replica) as jobs:
        job = await jobs.submit(a_job(), b"image", None)
        await replica.started.get()
        watching = asyncio.create_task(watch(jobs, job))
        await asyncio.sleep(0)
        await jobs.drain()
        assert EventKind.DONE not in [event.kind for event in await watching]
        late = await jobs.submit(a_job(), b"image", None)
        assert [event.kind for event in await watch(jobs, late)] == []
    async with opened(tmp_path, SlowReplica()) as jobs:
        assert (await watch(jobs, late))[-1].kind is EventKind.DONE


async def test_two_servers_on_one_folder(jobs: Jobs, tmp_path: Path, replica: ManualReplica) -> None:
    with pytest.raises(FolderInUseError):
        async with opened(tmp_path, replica):
            pass
    job = await jobs.submit(a_job(), b"image", None)
    (await replica.started.get()).succeed()
    assert (await watch(jobs, job))[-1].kind is EventKind.DONE


async def test_folder_can_be_opened_again_after_a_failed_start(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    await asyncio.to_thread(path.write_bytes, b"no database" * 100)
    with pytest.raises(JobStoreError):
        async with opened(tmp_path, SlowReplica()):
            pass
    await asyncio.to_thread(path.unlink)
    async with opened(tmp_path, SlowReplica()) as jobs:
        job = await jobs.submit(a_job(), b"image", None)
        assert (await watch(jobs, job))[-1].kind is EventKind.DONE


async def test_many_clients_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path, SlowReplica()) as jobs:

        async def client(number: int) -> None:
            job = a_job(tenant=f"t{number % 3}", params={"prompt": "p", "seed": number})
            await jobs.submit(job, b"image %d" % (number % 5), b"mask")
            assert (await watch(jobs, job))[-1].kind is EventKind.DONE
            order = order_of(job, b"image %d" % (number % 5), b"mask")
            assert await jobs.result(job.tenant, job.id) == result_of(order)

        await asyncio.gather(*map(client, range(50)))
        assert jobs.queued_seconds() == 0
