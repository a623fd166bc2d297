"""Work that goes on without its caller, and is heard of when it fails."""

from __future__ import annotations

import asyncio

import pytest

from instgenie_server.jobs.kept_tasks import KeptTasks


async def test_work_is_completed_although_the_caller_is_cancelled() -> None:
    tasks, go, done = KeptTasks(), asyncio.Event(), asyncio.Event()

    async def work() -> int:
        await go.wait()
        done.set()
        return 1

    caller = asyncio.create_task(tasks.complete(work(), "work"))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go.set()
    await asyncio.wait_for(done.wait(), 5)
    assert await tasks.complete(work(), "work") == 1
    await tasks.close(5)


async def test_error_goes_to_the_caller_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await KeptTasks().complete(work(), "work")
    assert not caplog.records


@pytest.mark.parametrize("is_abandoned", [True, False])
async def test_error_that_nobody_sees_is_logged(caplog: pytest.LogCaptureFixture, is_abandoned: bool) -> None:
    tasks, go = KeptTasks(), asyncio.Event()

    async def work() -> None:
        await go.wait()
        raise ValueError("no")

    if is_abandoned:
        caller = asyncio.create_task(tasks.complete(work(), "the work"))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
    else:
        tasks.start(work(), "the work")
    go.set()
    await tasks.close(5)
    assert [record.getMessage() for record in caplog.records] == ["the work failed"]


async def test_closing_waits_then_cancels() -> None:
    tasks, never = KeptTasks(), asyncio.Event()
    quick = tasks.keep(asyncio.sleep(0, "done"), "quick")
    endless = tasks.keep(never.wait(), "endless")
    await tasks.close(0.05)
    assert quick.result() == "done"
    assert endless.cancelled()
    await tasks.close(0.05)
