"""Sweeps: rows, then files that no job refers to; nothing that is on its way into the table."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from instgenie_server.jobs.errors import JobStoreError
from instgenie_server.jobs.job import Job, JobState
from instgenie_server.jobs.job_events import JobEvents
from instgenie_server.jobs.job_store import JobStore, KeptJob
from instgenie_server.jobs.picture_files import PictureFiles
from instgenie_server.jobs.sweeper import ORPHAN_SECONDS, Sweeper, Swept
from instgenie_server.settings import RetentionSettings
from tests.server.jobs.bench import a_store
from tests.server.jobs.fakes import a_job
from tests.server.manual_clock import ManualClock

SETTINGS = RetentionSettings(age_seconds=100, bytes=1000, sweep_seconds=1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(time.time())  # files bear the times of the system


@pytest.fixture
def sweeper(store: JobStore, files: PictureFiles, clock: ManualClock) -> Sweeper:
    return Sweeper(store, files, JobEvents(1, store.get), SETTINGS, clock)


async def a_stored_job(store: JobStore, files: PictureFiles, image: bytes, **values: Any) -> Job:
    with files.hold() as hold:
        return await store.add(a_job(image=await hold.write(image), **values))


async def finish(store: JobStore, files: PictureFiles, job: Job, result: bytes, now: float) -> Job:
    with files.hold() as hold:
        await store.claim(job.id, now)
        done = await store.finish(job.id, JobState.DONE, now, {}, await hold.write(result))
        assert done is not None
        return done


async def test_old_jobs_go_with_their_files(
    store: JobStore, files: PictureFiles, sweeper: Sweeper, clock: ManualClock
) -> None:
    shared = [await a_stored_job(store, files, b"shared") for _ in range(2)]
    old = await finish(store, files, shared[0], b"old", clock.now - 101)
    new = await finish(store, files, shared[1], b"new", clock.now - 99)
    waiting = await a_stored_job(store, files, b"waiting", created_at=0.0)
    assert await sweeper.sweep() == Swept(jobs=1, files=1)
    assert await store.get(old.id) is None
    assert await store.get(waiting.id) == waiting
    assert set(await files.list()) == {new.image, new.result, waiting.image}
    assert await sweeper.sweep() == Swept(0, 0)
    clock.now += 2
    assert await sweeper.sweep() == Swept(jobs=1, files=2)
    assert set(await files.list()) == {waiting.image}


async def test_jobs_beyond_the_budget_go(
    store: JobStore, files: PictureFiles, sweeper: Sweeper, clock: ManualClock
) -> None:
    jobs = [await a_stored_job(store, files, bytes([number]) * 400) for number in range(4)]
    ended = [await finish(store, files, job, b"r", clock.now - 50 + number) for number, job in enumerate(jobs)]
    assert await sweeper.sweep() == Swept(jobs=2, files=2)  # the result is shared by all
    assert set(await files.list()) == {ended[2].image, ended[3].image, ended[3].result}


async def test_orphans_go_when_they_are_old(
    store: JobStore, files: PictureFiles, sweeper: Sweeper, clock: ManualClock
) -> None:
    with files.hold() as hold:
        await hold.write(b"orphan")
    job = await a_stored_job(store, files, b"waiting")
    assert await sweeper.sweep() == Swept(0, 0)
    clock.now += ORPHAN_SECONDS + 60  # the file is a little younger than the clock
    assert await sweeper.sweep() == Swept(jobs=0, files=1)
    assert set(await files.list()) == {job.image}


async def test_held_files_stay_though_they_look_like_orphans(
    files: PictureFiles, sweeper: Sweeper, clock: ManualClock
) -> None:
    clock.now += ORPHAN_SECONDS + 60
    with files.hold() as hold:
        digest = await hold.write(b"a picture")
        assert await sweeper.sweep() == Swept(0, 0)
        assert await files.read(digest) == b"a picture"


class PausedStore(JobStore):
    """Lets others go first whenever it has told which jobs there are."""

    async def kept(self) -> list[KeptJob]:
        kept = await super().kept()
        await self.meanwhile()
        return kept

    async def meanwhile(self) -> None:
        pass


@pytest.mark.parametrize("when", range(4))
async def test_file_that_a_new_job_shares_with_a_dropped_one(
    tmp_path: Path, files: PictureFiles, clock: ManualClock, when: int
) -> None:
    """However a submission falls between the steps of a sweep, its picture stays."""
    async with a_store(tmp_path, PausedStore) as store:
        old = await finish(store, files, await a_stored_job(store, files, b"shared"), b"old", clock.now - 101)
        calls = iter(range(100))
        submitted: list[Job] = []

        async def meanwhile() -> None:
            if next(calls) == when:
                submitted.append(await a_stored_job(store, files, b"shared"))

        store.meanwhile = meanwhile  # type: ignore[method-assign]
        sweeper = Sweeper(store, files, JobEvents(1, store.get), SETTINGS, clock)
        await sweeper.sweep()
        await sweeper.sweep()
        assert await store.get(old.id) is None
        for job in submitted:
            assert await files.read(job.image) == b"shared"


async def test_submitting_and_sweeping_at_the_same_time(
    store: JobStore, files: PictureFiles, sweeper: Sweeper, clock: ManualClock
) -> None:
    clock.now += ORPHAN_SECONDS + 60  # every file looks old

    async def client(number: int) -> None:
        for round_ in range(10):
            job = await a_stored_job(store, files, bytes([round_ % 3]))
            assert await files.read(job.image) == bytes([round_ % 3])
            done = await finish(store, files, job, b"result of %d" % number, clock.now - 200)
            assert done.result is not None

    async def sweep_again_and_again() -> None:
        while True:
            await sweeper.sweep()

    sweeping = asyncio.create_task(sweep_again_and_again())
    await asyncio.gather(*map(client, range(3)))
    sweeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sweeping
    await sweeper.sweep()
    assert await files.list() == {}


class RefusingStore(JobStore):
    """Refuses the first time; says when it is asked the fourth time."""

    calls = 0

    def expect_calls(self) -> asyncio.Event:
        self.asked_often = asyncio.Event()
        return self.asked_often

    async def kept(self) -> list[KeptJob]:
        self.calls += 1
        if self.calls == 1:
            raise JobStoreError("locked")
        if self.calls == 4:  # the second sweep has asked twice, so this is the third
            self.asked_often.set()
        return await super().kept()


async def test_failed_sweep_is_not_the_last_one(
    tmp_path: Path, files: PictureFiles, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_store(tmp_path, RefusingStore) as store:
        asked_often = store.expect_calls()
        events = JobEvents(1, store.get)
        events.open("old")
        settings = RetentionSettings(age_seconds=100, sweep_seconds=0.001)
        old = await finish(store, files, await a_stored_job(store, files, b"old", id="old"), b"r", clock.now - 101)
        events.publish_end(replace(old))
        caplog.set_level("INFO", "instgenie_server")
        running = asyncio.create_task(Sweeper(store, files, events, settings, clock).run())
        await asyncio.wait_for(asked_often.wait(), 20)
        assert (await store.get(old.id), await files.list()) == (None, {})
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert "a sweep failed, the next one comes in 0.001 seconds" in caplog.text
        assert [event async for event in events.subscribe("old")] == []  # forgotten as well
