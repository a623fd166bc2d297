"""Jobs on a replica: their order, and exactly one end for each, whatever comes between."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from instgenie.errors import DeadlineError, MaskError, ReplicaAwayError, ReplicaError, ReplicaLostError
from instgenie.orders import EditOrder, EditOutcome, StepReport
from instgenie_server.api_error import invalid
from instgenie_server.jobs.dispatcher import DispatcherSettings, ReadPicture
from instgenie_server.jobs.errors import JobStoreError
from instgenie_server.jobs.event_log import EventKind
from instgenie_server.jobs.job import MAX_ATTEMPTS, Job, JobState
from tests.server.jobs.bench import SETTINGS, Bench, Gate, a_bench
from tests.server.jobs.fakes import FakeReplica, ManualReplica, RunningEdit, make_order, result_of
from tests.server.routes.scripted_replica import TIMINGS

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def replica() -> ManualReplica:
    return ManualReplica()


@pytest_asyncio.fixture
async def bench(tmp_path: Path, replica: ManualReplica) -> AsyncIterator[Bench]:
    async with a_bench(tmp_path, replica, dataclasses.replace(SETTINGS, grace_seconds=0)) as bench:
        yield bench


async def started(replica: ManualReplica, job: Job) -> RunningEdit:
    """The next edit that starts, which is the job's."""
    return (await all_started(replica, [job]))[0]


async def all_started(replica: ManualReplica, jobs: Sequence[Job]) -> list[RunningEdit]:
    """The next edits that start, which are the jobs': in their order, whoever's files were read first."""
    edits = {edit.order.id: edit for edit in [await replica.started.get() for _ in jobs]}
    assert edits.keys() == {job.id for job in jobs}
    return [edits[job.id] for job in jobs]


async def test_a_job_from_its_order_to_its_result(bench: Bench, replica: ManualReplica) -> None:
    job = await bench.submit(params={"prompt": "a pear", "seed": 7})
    edit = await started(replica, job)
    order = edit.order
    assert (order.picture.data, order.mask, order.prompt, order.seed) == (b"an image", b"a mask", "a pear", 7)
    watching = asyncio.create_task(bench.watch(job))
    for step in range(3):
        edit.step(step, b"preview" if step == 1 else None)
        await asyncio.sleep(0)
    assert bench.dispatcher.progress(job.id) is not None
    edit.succeed()
    events = await watching
    assert [event.kind.value for event in events] == ["queued", "started", "step", "step", "step", "done"]
    assert [event.data for event in events[:4]] == [
        {"position": 1},
        {"attempt": 1},
        {"step": 0, "steps": 4},
        {"step": 1, "steps": 4},
    ]
    assert [event.preview for event in events] == [None, None, None, b"preview", None, None]
    assert events[-1].data == {"width": 1, "height": 1, "timings": dataclasses.asdict(TIMINGS)}
    done = await bench.end(job)
    assert (done.state, done.started_at, done.finished_at) == (JobState.DONE, 5000, 5000)
    assert await bench.jobs.result("ann", job.id) == result_of(order)
    assert bench.dispatcher.progress(job.id) is None


async def test_one_at_a_time_in_their_order(bench: Bench, replica: ManualReplica) -> None:
    first, plain, urgent = await bench.submit(), await bench.submit(), await bench.submit(priority=1)
    for job in (first, urgent, plain):
        edit = await started(replica, job)
        assert replica.started.empty()
        edit.succeed()
        assert (await bench.end(job)).state is JobState.DONE


async def test_concurrency(tmp_path: Path, replica: ManualReplica) -> None:
    async with a_bench(tmp_path, replica, dataclasses.replace(SETTINGS, concurrency=2)) as bench:
        jobs = [await bench.submit() for _ in range(3)]
        edits = await all_started(replica, jobs[:2])
        assert [bench.dispatcher.position(job.id) for job in jobs] == [0, 0, 1]
        edits[1].succeed()
        await bench.end(jobs[1])
        (await started(replica, jobs[2])).succeed()
        edits[0].succeed()
        for job in jobs:
            assert (await bench.end(job)).state is JobState.DONE


async def test_positions_and_seconds(bench: Bench, replica: ManualReplica) -> None:
    dispatcher = bench.dispatcher
    jobs = [await bench.submit(predicted_seconds=8.0)]
    edit = await started(replica, jobs[0])
    jobs += [await bench.submit(predicted_seconds=seconds) for seconds in (4.0, 2.0)]
    assert [dispatcher.position(job.id) for job in jobs] == [0, 1, 2]
    assert dispatcher.queued_seconds() == 14
    edit.step(1)
    assert dispatcher.queued_seconds() == 12
    watched = await bench.jobs.events("ann", jobs[2].id)
    assert watched is not None
    positions = [(await anext(watched)).data["position"]]
    await bench.jobs.cancel("ann", jobs[1].id)
    positions.append((await anext(watched)).data["position"])
    assert (dispatcher.position(jobs[1].id), dispatcher.queued_seconds()) == (None, 8)
    urgent = await bench.submit(priority=9)
    positions.append((await anext(watched)).data["position"])
    edit.succeed()
    (await started(replica, urgent)).succeed()
    positions.append((await anext(watched)).data["position"])
    assert positions == [2, 1, 2, 1]
    (await started(replica, jobs[2])).succeed()
    await bench.end(jobs[2])
    assert dispatcher.queued_seconds() == 0
    assert dispatcher.position(jobs[2].id) in (0, None)  # told before the slot is free
    await watched.aclose()


async def test_cancel_while_it_waits(bench: Bench, replica: ManualReplica) -> None:
    first, second = await bench.submit(), await bench.submit()
    edit = await started(replica, first)
    cancelled = await bench.jobs.cancel("ann", second.id)
    assert cancelled is not None
    assert (cancelled.state, cancelled.attempts) == (JobState.CANCELLED, 0)
    assert await bench.end(second) == cancelled
    edit.succeed()
    await bench.end(first)
    third = await bench.submit()
    (await started(replica, third)).succeed()
    assert (await bench.end(third)).state is JobState.DONE
    assert await bench.jobs.cancel("ann", third.id) == await bench.store.get(third.id)  # too late


async def test_cancel_while_it_runs(bench: Bench, replica: ManualReplica, caplog: pytest.LogCaptureFixture) -> None:
    job, next_job = await bench.submit(), await bench.submit()
    edit = await started(replica, job)
    edit.step(1)
    cancelled = await bench.jobs.cancel("ann", job.id)
    assert cancelled is not None
    await edit.stopped.wait()
    edit.step(2)  # a report that was under way
    assert cancelled == await bench.end(job)
    assert (cancelled.state, cancelled.detail["code"]) == (JobState.CANCELLED, "cancelled")
    assert (await bench.watch(job))[-1].kind is EventKind.CANCELLED
    assert await bench.jobs.result("ann", job.id) is None
    (await started(replica, next_job)).succeed()
    assert (await bench.end(next_job)).state is JobState.DONE
    assert not caplog.records  # it is no failure


async def test_cancel_is_carried_through_though_the_client_leaves(bench: Bench, replica: ManualReplica) -> None:
    job = await bench.submit()
    edit = await started(replica, job)
    gate = bench.store.exit = Gate()
    task = asyncio.create_task(bench.jobs.cancel("ann", job.id))
    await gate.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.go.set()
    await edit.stopped.wait()
    assert (await bench.end(job)).state is JobState.CANCELLED


@pytest.mark.parametrize("turns", range(12))
async def test_cancel_and_result_meet(bench: Bench, replica: ManualReplica, turns: int) -> None:
    job = await bench.submit()
    edit = await started(replica, job)
    edit.succeed()
    for _ in range(turns):
        await asyncio.sleep(0)
    answer = await bench.jobs.cancel("ann", job.id)
    assert answer is not None
    assert answer == await bench.end(job)
    assert (answer.state is JobState.DONE) == (await bench.jobs.result("ann", job.id) is not None)


@pytest.mark.parametrize("turns", range(12))
async def test_cancel_and_start_meet(bench: Bench, replica: ManualReplica, turns: int) -> None:
    job = await bench.submit()
    for _ in range(turns):
        await asyncio.sleep(0)
    answer = await bench.jobs.cancel("ann", job.id)
    assert answer is not None
    assert answer.state is JobState.CANCELLED
    assert answer == await bench.end(job)
    next_job = await bench.submit()
    edit = await replica.started.get()
    if edit.order.id == job.id:
        await edit.stopped.wait()
        edit = await replica.started.get()
    assert edit.order.id == next_job.id
    edit.succeed()
    await bench.end(next_job)


async def test_deadline_that_is_past_costs_no_step(bench: Bench, replica: ManualReplica) -> None:
    job = await bench.submit(deadline_at=4999.0)
    ended = await bench.end(job)
    assert (ended.state, ended.attempts, ended.detail["code"]) == (JobState.EXPIRED, 0, "expired")
    assert replica.count == 0


async def test_deadline_while_it_waits(bench: Bench, replica: ManualReplica) -> None:
    first, second = await bench.submit(), await bench.submit(deadline_at=5000.02)
    edit = await started(replica, first)
    assert (await bench.end(second)).state is JobState.EXPIRED  # though the first one still runs
    edit.succeed()
    assert (await bench.end(first)).state is JobState.DONE


async def test_deadline_while_it_runs(bench: Bench, replica: ManualReplica) -> None:
    job = await bench.submit(deadline_at=5004.0)  # enough to begin it
    edit = await started(replica, job)
    ended = await bench.end(job)
    assert (ended.state, ended.attempts) == (JobState.EXPIRED, 1)
    await edit.stopped.wait()


async def test_what_is_left_until_the_deadline_goes_with_the_order(bench: Bench, replica: ManualReplica) -> None:
    with_deadline, without = await bench.submit(deadline_at=5007.5), await bench.submit()
    edit = await started(replica, with_deadline)
    assert edit.order.deadline_seconds == 7.5
    edit.succeed()
    edit = await started(replica, without)
    assert edit.order.deadline_seconds is None
    edit.succeed()
    await bench.end(without)


async def test_a_deadline_that_the_replica_cannot_meet(bench: Bench, replica: ManualReplica) -> None:
    job = await bench.submit(deadline_at=6000.0)
    (await started(replica, job)).fail(DeadlineError("it takes longer"))
    ended = await bench.end(job)
    assert (ended.state, ended.attempts, ended.detail["code"]) == (JobState.EXPIRED, 1, "expired")


async def test_jobs_stay_in_the_queue_while_they_are_held_up(tmp_path: Path, replica: ManualReplica) -> None:
    settings = dataclasses.replace(SETTINGS, concurrency=8, retry_seconds=1000)
    async with a_bench(tmp_path, replica, settings) as bench:
        jobs = [await bench.submit() for _ in range(8)]
        edits = await all_started(replica, jobs)
        bench.jobs.hold_up(held_up=True)
        for edit in edits:
            edit.fail(ReplicaLostError("it was killed"))
        late = await bench.submit()
        watched = await bench.jobs.events("ann", late.id)
        assert watched is not None
        while (await anext(watched)).data["position"] < 9:  # no pause: the replica will be there when they go on
            pass
        await watched.aclose()
        assert [bench.dispatcher.position(job.id) for job in jobs] == list(range(1, 9))
        assert replica.started.empty()
        bench.jobs.hold_up(held_up=False)
        for job, edit in zip(jobs, await all_started(replica, jobs), strict=True):
            edit.succeed()
            ended = await bench.end(job)
            assert (ended.state, ended.attempts) == (JobState.DONE, 2)
        (await started(replica, late)).succeed()
        assert (await bench.end(late)).attempts == 1


async def test_a_job_that_loses_every_replica_fails(bench: Bench, replica: ManualReplica) -> None:
    job = await bench.submit()
    for _ in range(MAX_ATTEMPTS):
        (await started(replica, job)).fail(ReplicaLostError("it was killed"))
    failed = await bench.end(job)
    assert (failed.state, failed.attempts, failed.detail["code"]) == (JobState.FAILED, MAX_ATTEMPTS, "edit_failed")
    assert "it was killed" in failed.detail["message"]


async def test_attempts_that_find_no_replica_do_not_count(bench: Bench, replica: ManualReplica) -> None:
    job = await bench.submit()
    for _ in range(MAX_ATTEMPTS + 1):
        (await started(replica, job)).fail(ReplicaAwayError("it was killed before"))
    (await started(replica, job)).succeed()
    ended = await bench.end(job)
    assert (ended.state, ended.attempts) == (JobState.DONE, 1)


async def test_stopped_while_jobs_are_held_up(bench: Bench, replica: ManualReplica) -> None:
    bench.jobs.hold_up(held_up=True)
    job = await bench.submit()
    await bench.dispatcher.stop()
    assert await bench.store.get(job.id) == job
    assert replica.count == 0


async def test_many_at_once_are_chosen_in_their_order(tmp_path: Path, replica: ManualReplica) -> None:
    async with a_bench(tmp_path, replica, dataclasses.replace(SETTINGS, concurrency=4)) as bench:
        bench.jobs.hold_up(held_up=True)
        jobs = [await bench.submit(priority=priority) for priority in (0, 2, 1, 0, 3, 0)]
        bench.jobs.hold_up(held_up=False)
        edits = [await replica.started.get() for _ in range(4)]
        assert {edit.order.id for edit in edits} == {jobs[number].id for number in (4, 1, 2, 0)}
        assert [bench.dispatcher.position(job.id) for job in jobs] == [0, 0, 0, 1, 0, 2]
        for edit in edits[:2]:
            edit.succeed()
        edits += [await replica.started.get() for _ in range(2)]
        for edit in edits[2:]:
            edit.succeed()
        for job in jobs:
            assert (await bench.end(job)).state is JobState.DONE


async def test_stop_puts_back_all_that_take_too_long(tmp_path: Path, replica: ManualReplica) -> None:
    settings = dataclasses.replace(SETTINGS, concurrency=4, grace_seconds=0)
    async with a_bench(tmp_path, replica, settings) as bench:
        jobs = [await bench.submit() for _ in range(6)]
        edits = await all_started(replica, jobs[:4])
        await bench.dispatcher.stop()
        assert all(edit.stopped.is_set() for edit in edits)
        stored = [await bench.store.get(job.id) for job in jobs]
        assert [(job.state, job.attempts) for job in stored if job] == [(JobState.QUEUED, 0)] * 6


async def test_errors_of_the_order_end_it(bench: Bench, replica: ManualReplica) -> None:
    job = await bench.submit()
    (await started(replica, job)).fail(MaskError("mask", "is empty"))
    failed = await bench.end(job)
    assert (failed.state, failed.attempts) == (JobState.FAILED, 1)
    assert failed.detail == {"message": "mask: is empty", "code": "invalid_input", "param": "mask"}


@pytest.mark.parametrize("error", [ReplicaError("down"), RuntimeError("unforeseen")])
async def test_errors_of_the_replica_are_retried(bench: Bench, replica: ManualReplica, error: Exception) -> None:
    job, other = await bench.submit(), await bench.submit()
    for _ in range(MAX_ATTEMPTS - 1):
        (await started(replica, job)).fail(error)
    (await started(replica, job)).succeed()
    done = await bench.end(job)
    assert (done.state, done.attempts) == (JobState.DONE, MAX_ATTEMPTS)
    kinds = [event.kind.value for event in await bench.watch(job)]
    assert kinds == ["started", "started", "queued", "started", "done"]
    for _ in range(MAX_ATTEMPTS):
        (await started(replica, other)).fail(error)
    failed = await bench.end(other)
    assert (failed.state, failed.attempts, failed.detail["code"]) == (JobState.FAILED, MAX_ATTEMPTS, "edit_failed")


async def test_replica_that_gives_up_is_tried_again(bench: Bench, replica: ManualReplica) -> None:
    job = await bench.submit()
    (await started(replica, job)).outcome.cancel()
    (await started(replica, job)).succeed()
    assert (await bench.end(job)).state is JobState.DONE


async def test_cancel_between_two_attempts(tmp_path: Path, replica: ManualReplica) -> None:
    async with a_bench(tmp_path, replica, dataclasses.replace(SETTINGS, retry_seconds=1000)) as bench:
        job, other = await bench.submit(), await bench.submit()
        edit = await started(replica, job)
        edit.fail(ReplicaError("down"))
        await edit.stopped.wait()
        assert (await bench.jobs.cancel("ann", job.id)) == await bench.end(job)
        (await started(replica, other)).succeed()
        assert (await bench.end(other)).state is JobState.DONE
        assert replica.count == 2


async def test_lost_upload(bench: Bench, replica: ManualReplica, tmp_path: Path) -> None:
    first, job = await bench.submit(), await bench.submit(image="")
    edit = await started(replica, first)
    path = tmp_path / "files" / job.image[:2] / job.image[2:]
    await asyncio.to_thread(path.write_bytes, b"rotten")
    edit.succeed()
    await bench.end(first)
    failed = await bench.end(job)
    assert (failed.state, failed.detail["code"]) == (JobState.FAILED, "input_lost")


async def test_order_that_cannot_be_made(tmp_path: Path, replica: ManualReplica) -> None:
    @contextlib.asynccontextmanager
    async def broken(job: Job, read: ReadPicture) -> AsyncIterator[EditOrder]:
        if job.params["prompt"] == "broken":
            raise KeyError("/secret/path")
        async with make_order(job, read) as order:
            yield order

    async with a_bench(tmp_path, replica, make_order=broken) as bench:
        job, other = await bench.submit(params={"prompt": "broken", "seed": 0}), await bench.submit()
        failed = await bench.end(job)
        assert (failed.state, failed.attempts) == (JobState.FAILED, MAX_ATTEMPTS)
        assert failed.detail["message"] == "the edit failed 3 times, at last with: KeyError"
        (await started(replica, other)).succeed()
        await bench.end(other)


async def test_uploads_that_decode_too_slowly_are_tried_again(tmp_path: Path, replica: ManualReplica) -> None:
    """They were decoded in time when they were accepted, so that they are not at fault."""
    slow = [MAX_ATTEMPTS - 1, MAX_ATTEMPTS]  # so often, of each job

    @contextlib.asynccontextmanager
    async def on_a_busy_machine(job: Job, read: ReadPicture) -> AsyncIterator[EditOrder]:
        number = job.params["seed"]
        if slow[number]:
            slow[number] -= 1
            raise invalid("image: decoding takes longer than 20 seconds", "image", "decoding_too_slow")
        async with make_order(job, read) as order:
            yield order

    async with a_bench(tmp_path, replica, make_order=on_a_busy_machine) as bench:
        jobs = [await bench.submit(params={"prompt": "a pear", "seed": number}) for number in range(2)]
        (await started(replica, jobs[0])).succeed()
        done, failed = [await bench.end(job) for job in jobs]
        assert (done.state, done.attempts) == (JobState.DONE, MAX_ATTEMPTS)
        assert (failed.state, failed.attempts, failed.detail["code"]) == (JobState.FAILED, MAX_ATTEMPTS, "edit_failed")
        assert "decoding takes longer" in failed.detail["message"]


async def test_done_implies_a_readable_result(tmp_path: Path) -> None:
    class Instant(FakeReplica):
        async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
            return EditOutcome(result_of(order), 1, 1, TIMINGS)

    async with a_bench(tmp_path, Instant()) as bench:
        for _ in range(20):
            job = await bench.submit()
            async for event in bench.events.subscribe(job.id):
                if event.kind is EventKind.DONE:
                    stored = await bench.jobs.get("ann", job.id)
                    assert stored is not None
                    assert stored.state is JobState.DONE
                    assert (await bench.jobs.result("ann", job.id) or b"").startswith(b"result")


async def test_a_full_disk_delays_the_end(bench: Bench, replica: ManualReplica) -> None:
    job = await bench.submit()
    edit = await started(replica, job)
    bench.files.failures, bench.store.failures = 2, 3
    edit.succeed()
    assert (await bench.end(job)).state is JobState.DONE
    assert (bench.files.failures, bench.store.failures, replica.count) == (0, 0, 1)


async def test_a_full_disk_delays_the_start(bench: Bench, replica: ManualReplica) -> None:
    bench.store.failures = 2
    job = await bench.submit()
    (await started(replica, job)).succeed()
    assert (await bench.end(job)).attempts == 1


async def test_end_that_was_stored_though_that_seemed_to_fail_is_told(bench: Bench, replica: ManualReplica) -> None:
    job = await bench.submit(deadline_at=9000.0)
    edit = await started(replica, job)
    bench.store.after = 1
    edit.succeed()
    assert (await bench.end(job)).state is JobState.DONE


async def test_a_bug_does_not_take_the_slot_with_it(
    bench: Bench, replica: ManualReplica, caplog: pytest.LogCaptureFixture
) -> None:
    bench.store.bugs = 1
    job, other = await bench.submit(), await bench.submit()
    (await started(replica, other)).succeed()
    assert (await bench.end(other)).state is JobState.DONE
    assert f"job {job.id} was left unfinished" in caplog.text
    assert await bench.store.get(job.id) == job  # for the next start


async def test_stop_lets_running_jobs_finish(tmp_path: Path, replica: ManualReplica) -> None:
    async with a_bench(tmp_path, replica) as bench:
        running, waiting = await bench.submit(), await bench.submit()
        edit = await started(replica, running)
        stopping = asyncio.create_task(bench.dispatcher.stop())
        await asyncio.sleep(0)
        edit.succeed()
        assert (await bench.end(running)).state is JobState.DONE
        await stopping
        assert await bench.store.get(waiting.id) == waiting
        late = await bench.submit(deadline_at=6000.0)
        assert (bench.dispatcher.position(late.id), replica.count) == (None, 1)


async def test_stop_puts_back_what_takes_too_long(bench: Bench, replica: ManualReplica) -> None:
    running, waiting = await bench.submit(), await bench.submit()
    edit = await started(replica, running)
    await bench.dispatcher.stop()
    assert edit.stopped.is_set()
    stored = await bench.store.get(running.id)
    assert stored is not None
    assert (stored.state, stored.attempts) == (JobState.QUEUED, 0)
    assert await bench.store.get(waiting.id) == waiting


async def test_stop_while_a_job_is_about_to_start(bench: Bench, replica: ManualReplica) -> None:
    gate = bench.store.gate = Gate()
    job = await bench.submit()
    await gate.reached.wait()
    stopping = asyncio.create_task(bench.dispatcher.stop())
    await asyncio.sleep(0)
    gate.go.set()
    await stopping
    stored = await bench.store.get(job.id)
    assert stored is not None
    assert (stored.state, stored.attempts, replica.count) == (JobState.QUEUED, 0, 0)


async def test_stop_does_not_wait_for_the_next_attempt(tmp_path: Path, replica: ManualReplica) -> None:
    settings = dataclasses.replace(SETTINGS, retry_seconds=1000, grace_seconds=1000)
    async with a_bench(tmp_path, replica, settings) as bench:
        job = await bench.submit()
        edit = await started(replica, job)
        edit.fail(ReplicaError("down"))
        await edit.stopped.wait()
        for _ in range(5):
            await asyncio.sleep(0)  # the slot's turn
        await bench.dispatcher.stop()
        stored = await bench.store.get(job.id)
        assert stored is not None
        assert (stored.state, replica.count) == (JobState.QUEUED, 1)


async def test_stop_does_not_wait_for_a_full_disk(bench: Bench, replica: ManualReplica) -> None:
    job = await bench.submit()
    edit = await started(replica, job)
    bench.store.failures = 10**9
    edit.succeed()
    await bench.dispatcher.stop()
    stored = await bench.store.get(job.id)
    assert stored is not None
    assert stored.state is JobState.RUNNING  # which the next start takes up


async def test_stop_does_not_wait_for_a_stubborn_replica(tmp_path: Path) -> None:
    class Stubborn(FakeReplica):
        def __init__(self) -> None:
            self.started, self.go = asyncio.Event(), asyncio.Event()

        async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
            self.started.set()
            while not self.go.is_set():
                try:
                    await self.go.wait()
                except asyncio.CancelledError:
                    continue
            raise ReplicaError("stopped at last")

    stubborn = Stubborn()
    settings = DispatcherSettings(concurrency=1, grace_seconds=0, stop_seconds=0.05)
    async with a_bench(tmp_path, stubborn, settings) as bench:
        await bench.submit()
        await stubborn.started.wait()
        await bench.dispatcher.stop()
        stubborn.go.set()


class WhimsicalReplica(FakeReplica):
    """Takes some turns of the loop, and fails now and then; some orders always, and some never."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        for _ in range(self.random.randrange(20)):
            await asyncio.sleep(0)
        if order.prompt == "fails":
            raise MaskError("mask", "is empty")
        if order.prompt != "works" and self.random.random() < 0.4:
            raise self.random.choice([ReplicaError("down"), MaskError("mask", "is empty"), ValueError("?")])
        return EditOutcome(result_of(order), 1, 1, TIMINGS)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_each_job_has_one_end(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    settings = dataclasses.replace(SETTINGS, concurrency=(1, 2, 3, 16)[seed])
    async with a_bench(tmp_path, WhimsicalReplica(seed), settings) as bench:

        async def client() -> Job:
            deadline_at = chance.choice([None, None, 5000.0 + chance.random() / 20, 9000.0])
            job = await bench.submit(priority=chance.randrange(3), deadline_at=deadline_at)
            watching = asyncio.create_task(bench.end(job))
            if chance.random() < 0.4:
                for _ in range(chance.randrange(100)):
                    await asyncio.sleep(0)
                bench.store.failures += chance.random() < 0.3
                with contextlib.suppress(JobStoreError):  # which the client is told
                    await bench.jobs.cancel("ann", job.id)
            return await watching

        certain = [await bench.submit(params={"prompt": prompt, "seed": 0}) for prompt in ("works", "fails")]
        ended = await asyncio.gather(*(client() for _ in range(40)), *map(bench.end, certain))
        assert len({job.id for job in ended}) == 42
        assert [job.state for job in ended[40:]] == [JobState.DONE, JobState.FAILED]
        for job in ended:
            assert job.attempts <= MAX_ATTEMPTS
            assert (await bench.jobs.result("ann", job.id) is not None) == (job.state is JobState.DONE)
        assert bench.dispatcher.queued_seconds() == 0
