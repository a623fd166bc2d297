"""Uploads at the same time: of all callers, and of one."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from instgenie_server.access.upload_permits import UploadPermits
from instgenie_server.api_error import ApiError

LONG = 30.0


async def is_refused(permits: UploadPermits, caller: str) -> bool:
    """Whether the caller gets none at once."""
    try:
        async with permits.hold(caller, 0.01):
            return False
    except ApiError:
        return True


async def test_who_waits_for_too_long_is_refused() -> None:
    permits = UploadPermits(2)
    async with permits.hold("a", LONG):
        with pytest.raises(ApiError, match="too many uploads") as caught:
            async with permits.hold("a", 0.01):
                pass
    assert (caught.value.status, caught.value.code, caught.value.retry_after) == (429, "too_many_uploads", 1.0)


@pytest.mark.parametrize(("total", "share"), [(1, 1), (2, 1), (3, 1), (4, 2), (16, 8)])
async def test_one_caller_gets_half(total: int, share: int) -> None:
    permits = UploadPermits(total)
    async with AsyncExitStack() as held:
        for _ in range(share):
            await held.enter_async_context(permits.hold("a", LONG))
        assert await is_refused(permits, "a")
        assert await is_refused(permits, "b") == (total == 1)
        assert len(permits) == 1
    assert not await is_refused(permits, "a")
    assert len(permits) == 0


async def test_all_together_get_no_more_than_there_are() -> None:
    permits = UploadPermits(4)
    async with AsyncExitStack() as held:
        for caller in "abcd":
            await held.enter_async_context(permits.hold(caller, LONG))
        assert await is_refused(permits, "e")
        assert await is_refused(permits, "a")  # and its share is not used up by what it did not get
    async with permits.hold("a", LONG), permits.hold("a", LONG):
        assert await is_refused(permits, "a")


async def test_who_waits_for_their_share_holds_up_nobody() -> None:
    permits = UploadPermits(4)
    entered: list[str] = []

    async def upload(caller: str, may_end: asyncio.Event) -> None:
        async with permits.hold(caller, LONG):
            entered.append(caller)
            await may_end.wait()

    ends = asyncio.Event()
    async with asyncio.TaskGroup() as uploads:
        for caller in ("a", "a", "a", "a", "a", "b"):
            uploads.create_task(upload(caller, ends))
        while "b" not in entered:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert entered == ["a", "a", "b"]
        ends.set()
    assert sorted(entered) == ["a"] * 5 + ["b"]
    assert len(permits) == 0


async def test_a_wait_that_is_cancelled_gives_everything_back() -> None:
    permits = UploadPermits(1)
    async with permits.hold("a", LONG):
        waiting = [asyncio.create_task(is_refused(permits, caller)) for caller in "ab"]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert all(task.cancelled() for task in waiting)
    assert not await is_refused(permits, "a")
    assert not await is_refused(permits, "b")
