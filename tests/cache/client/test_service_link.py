"""The connection of a service store: silent, lost and made anew."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from instgenie_cache.client.cache_client import NO_LEASE, CacheClient
from instgenie_cache.client.service_link import Purpose
from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.errors import (
    CacheError,
    ServiceError,
    StoreFullError,
)
from instgenie_cache.records.record import Record
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.messages import (
    Commit,
    Delete,
    Fetch,
    FetchReply,
    Flush,
    Lease,
    LeaseReply,
    Pin,
    PinReply,
    Release,
    Stat,
)
from tests.cache.scene import answer_one, commit_nothing, later, settled, staged, step_bytes
from tests.cache.service_records import QUICK, SIZE, record_of, wait_until


async def test_silent_service_is_absent_until_it_is_heard_again(tmp_path: Path) -> None:
    hasty = replace(QUICK, deadline_seconds=3.0)
    fd = os.memfd_create("arena")
    os.truncate(fd, 1 << 20)
    async with staged(tmp_path / "s", settings=hasty, arena_bytes=1 << 20, fd=fd) as scene:
        lease, arena = await scene.lease(), scene.store.arena
        began = time.monotonic()
        assert await later(scene.store.lease, "a") is None
        assert time.monotonic() - began >= 3.0
        assert not scene.store.is_connected
        began = time.monotonic()
        for _ in range(50):
            assert scene.store.lease("a") is None
            assert not scene.store.pin("a")
            assert scene.store.metrics() == b""
        with pytest.raises(ServiceError, match="no connection"):
            scene.store.create("a", SIZE)
        with pytest.raises(ServiceError, match="does not answer"):
            lease.step(0)
        assert time.monotonic() - began < 3.0  # less than one of them would have waited
        assert scene.store.misses_unreachable == 102
        assert scene.store.arena is arena is not None  # who has locked its pages does not unlock them

        number, _ = await scene.peer.expect(Lease)
        assert (await scene.peer.expect(Release))[1] == Release(lease=NO_LEASE)  # which asks for a sign of life
        scene.peer.reply(number, LeaseReply(lease=7, tier="host", steps=1, blocks=1, record_bytes=1))
        await later(wait_until, lambda: scene.store.is_connected)
        assert (await scene.peer.expect(Release))[1] == Release(lease=7)  # nobody waits for it any more
        assert lease.is_valid
    os.close(fd)


async def test_service_that_stays_silent_is_connected_to_anew(tmp_path: Path) -> None:
    hasty = replace(QUICK, deadline_seconds=0.5)
    async with staged(tmp_path / "s", settings=hasty) as scene:
        lease = await scene.lease()
        assert not await later(scene.store.holds, "a")
        scene.peer = await scene.service.peer()
        await later(wait_until, lambda: scene.store.is_connected)
        assert not lease.is_valid
        with pytest.raises(ServiceError, match="lost with the connection"):
            lease.step(0)
        asking = later(scene.store.holds, "a")
        scene.peer.fail((await scene.peer.expect(Stat))[0], CacheError("but alive"))
        with pytest.raises(CacheError, match="but alive"):
            await asking


async def test_reading_goes_on_while_puts_wait(tmp_path: Path) -> None:
    async with staged(tmp_path / "s") as scene:
        lease = await scene.lease()
        writer = await scene.create(TemplateSize(1, 1, 100))
        scene.writing.connection.pause()  # as the service does while a put waits for room
        await later(writer.put, 0, 0, Record("raw", "uint8", (100,), memoryview(bytes(100))))
        reading = later(lease.step, 0)
        await scene.send_step(0)
        assert await reading is not None
        lease.release()
        assert (await scene.peer.next_of(Release))[1] == Release(lease=1, step=None)
        scene.writing.connection.resume()
        committing = later(writer.commit)
        await answer_one(scene.writing)
        scene.writing.reply((await scene.writing.expect(Commit))[0])
        await committing
        flushing = later(scene.store.flush)
        scene.writing.reply((await scene.writing.expect(Flush))[0])
        await flushing


async def test_writers_connection_that_ended_is_made_anew_and_leases_stay(tmp_path: Path) -> None:
    async with staged(tmp_path / "s") as scene:
        lease, writer = await scene.lease(), await scene.create()
        scene.writing.connection.abort()
        with pytest.raises(ServiceError):
            await later(writer.commit)
        with pytest.raises(CacheError, match="committed or aborted before"):
            writer.put(0, 0, record_of("a", 0, 0))
        await scene.create()
        assert lease.is_valid


async def test_connection_that_ends_fails_what_is_open_and_the_next_one_gets_the_pins(tmp_path: Path) -> None:
    async with staged(tmp_path / "s") as scene:
        for name in "abc":
            pinning = later(scene.store.pin, name)
            scene.peer.reply((await scene.peer.expect(Pin))[0], PinReply(held=name != "c"))
            assert await pinning == (name != "c")
        lease = await scene.lease()
        waiting = later(scene.store.lease, "b")
        await scene.peer.expect(Lease)
        scene.peer.connection.abort()
        assert await waiting is None
        with pytest.raises(ServiceError, match="lost with the connection"):
            lease.step(0)

        scene.peer = await scene.service.peer()
        pinned = [await scene.peer.expect(Pin) for _ in "ab"]
        assert {request.template for _, request in pinned} == {"a", "b"}
        for number, request in pinned:
            scene.peer.reply(number, PinReply(held=request.template == "a"))
        assert not lease.is_valid
        unpinning = later(scene.store.delete, "unknown")
        scene.peer.reply((await scene.peer.expect(Delete))[0])
        await unpinning
        scene.peer.connection.abort()

        scene.peer = await scene.service.peer()
        assert (await scene.peer.expect(Pin))[1] == Pin(template="a")  # b was gone
        assert not scene.peer.has_requests


async def test_error_of_the_service_is_raised_and_no_miss(tmp_path: Path) -> None:
    async with staged(tmp_path / "s") as scene:
        asking = later(scene.store.holds, "a")
        scene.peer.fail((await scene.peer.expect(Stat))[0], CacheError("disk on fire"))
        with pytest.raises(CacheError, match="disk on fire"):
            await asking
        assert scene.store.misses_unreachable == 0


async def test_flush_that_cannot_reach_the_service_says_so(tmp_path: Path) -> None:
    async with staged(tmp_path / "s") as scene:
        await commit_nothing(scene)
        flushing = later(scene.store.flush)
        await scene.writing.expect(Flush)
        scene.service.stop()
        with pytest.raises(ServiceError, match="the connection to the cache service ended"):
            await flushing
        await later(wait_until, lambda: not scene.store.is_connected)
        with pytest.raises(ServiceError, match="may not be durable"):
            scene.store.flush()


@pytest.mark.parametrize("run", ["the same", "another"])
async def test_flush_after_the_connection_was_made_anew_says_so_once(tmp_path: Path, run: str) -> None:
    """The session of the new one knows nothing of what was committed before."""
    async with staged(tmp_path / "s") as scene:
        await commit_nothing(scene)
        if run == "another":
            scene.service.run = run
        before = scene.store._link.writing_client()
        scene.writing.connection.abort()
        await later(wait_until, lambda: before.is_closed)
        flushing = later(scene.store.flush)
        writing = await scene.service.peer()
        writing.reply((await writing.expect(Flush))[0])
        with pytest.raises(ServiceError, match="made anew"):
            await flushing
        scene.store.flush()


async def test_everyone_who_flushes_waits(tmp_path: Path) -> None:
    async with staged(tmp_path / "s") as scene:
        await commit_nothing(scene)
        flushing = [later(scene.store.flush) for _ in range(2)]
        numbers = [(await scene.writing.expect(Flush))[0] for _ in flushing]
        for number in numbers:
            scene.writing.reply(number)
        await asyncio.gather(*flushing)


async def test_what_went_wrong_after_the_deadline_of_a_flush_is_told_by_the_next(tmp_path: Path) -> None:
    async with staged(tmp_path / "s", settings=replace(QUICK, flush_seconds=0.5)) as scene:
        await commit_nothing(scene)
        client = scene.store._link.writing_client()
        with pytest.raises(ServiceError, match=r"no answer to flush within 0\.5 s"):
            await later(scene.store.flush)
        late = (await scene.writing.expect(Flush))[0]
        await scene.say_alive(scene.writing)
        await later(wait_until, lambda: not client.is_silent)
        scene.writing.fail(late, StoreFullError("the disk is full"))
        scene.store._link.settings = QUICK
        flushing = later(scene.store.flush)
        scene.writing.reply((await scene.writing.expect(Flush))[0])
        with pytest.raises(StoreFullError, match="the disk is full"):
            await flushing
        scene.store.flush()  # it is told once, and nothing is new


async def test_many_pins_are_made_again_some_at_a_time_and_again_where_that_fails(tmp_path: Path) -> None:
    names = [f"t{number}" for number in range(300)]
    async with staged(tmp_path / "s") as scene:
        for name in names:
            pinning = later(scene.store.pin, name)
            scene.peer.reply((await scene.peer.expect(Pin))[0], PinReply(held=True))
            assert await pinning
        scene.peer.connection.abort()
        scene.peer = await scene.service.peer()
        asked = [await scene.peer.expect(Pin) for _ in range(64)]
        await settled(scene)
        assert not scene.peer.has_requests  # the rest waits
        pinned = {request.template for _, request in asked[1:]}
        scene.peer.fail(asked[0][0], CacheError("not just now"))
        for number, _ in asked[1:]:
            scene.peer.reply(number, PinReply(held=True))
        while pinned != set(names):
            number, request = await scene.peer.expect(Pin)
            assert request.template not in pinned
            pinned.add(request.template)
            scene.peer.reply(number, PinReply(held=True))


async def test_no_that_comes_late_does_not_end_a_pin_made_since(tmp_path: Path) -> None:
    async with staged(tmp_path / "s") as scene:
        pinning = later(scene.store.pin, "a")
        scene.peer.reply((await scene.peer.expect(Pin))[0], PinReply(held=True))
        await pinning
        scene.peer.connection.abort()
        scene.peer = await scene.service.peer()
        again, _ = await scene.peer.expect(Pin)
        pinning = later(scene.store.pin, "a")  # after it was written once more, say
        scene.peer.reply((await scene.peer.expect(Pin))[0], PinReply(held=True))
        assert await pinning
        scene.peer.reply(again, PinReply(held=False))
        await settled(scene)
        scene.peer.connection.abort()
        scene.peer = await scene.service.peer()
        assert (await scene.peer.expect(Pin))[1].template == "a"


async def test_pin_that_nobody_got_is_given_back(tmp_path: Path) -> None:
    hasty = replace(QUICK, deadline_seconds=1.0)
    async with staged(tmp_path / "s", settings=hasty) as scene:
        assert not await later(scene.store.pin, "a")
        scene.peer.reply((await scene.peer.expect(Pin))[0], PinReply(held=True))
        unpinned = await scene.peer.next_of(Pin)
        assert unpinned[1] == Pin(template="a", pinned=False)


async def test_what_cannot_be_sent_is_an_error_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    async with staged(tmp_path / "s") as scene:
        for call in (
            partial(scene.store.lease, "\ud800"),
            partial(scene.store.holds, "\ud800"),
            partial(scene.store.pin, "\ud800"),
            partial(scene.store.delete, "\ud800"),
        ):
            with pytest.raises(CacheError, match="cannot be sent"):
                await later(call)
        creating = later(scene.store.create, "a", TemplateSize(2**64, 1, 1))
        scene.peer.reply((await scene.peer.expect(Release))[0])
        with pytest.raises(CacheError, match="create cannot be sent"):
            await creating
        assert not scene.peer.has_requests
        assert scene.store.is_connected
    assert time.monotonic() - began < QUICK.deadline_seconds


async def test_attempts_to_connect_go_on(caplog: pytest.LogCaptureFixture) -> None:
    dialed = threading.Semaphore(0)
    errors = itertools.cycle([ServiceError("not yet"), RuntimeError("unforeseen"), OSError("no more files")])

    async def dial(_: Purpose) -> CacheClient:
        dialed.release()
        raise next(errors)

    store = await later(ServiceStore, dial, QUICK)
    for _ in range(7):
        assert await later(dialed.acquire)
    assert await later(store.lease, "a") is None
    await later(store.close)
    assert "unforeseen" in caplog.text


async def test_nothing_is_printed_while_there_is_no_service(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = await later(partial(ServiceStore.open, Address(path=str(tmp_path / "none")), client="t", settings=QUICK))
    dialed = store._link.error
    await later(wait_until, lambda: store._link.error is not dialed)  # a second time
    await later(store.close)
    assert capfd.readouterr().out == ""


async def test_memory_of_a_lost_connection_is_let_go(tmp_path: Path) -> None:
    name = f"arena-{os.getpid()}-of-a-test"
    fd = os.memfd_create(name)
    os.truncate(fd, 4 * SIZE.step_bytes)
    os.pwrite(fd, step_bytes(0), 0)
    async with staged(tmp_path / "s", arena_bytes=4 * SIZE.step_bytes, fd=fd) as scene:
        lease = await scene.lease()
        reading = later(lease.step, 0)
        scene.peer.reply((await scene.peer.expect(Fetch))[0], FetchReply(lost=False, pieces=[[0, SIZE.step_bytes]]))
        records = await reading
        assert number_of_mappings(name) == 1
        gc.disable()  # nobody is to wait for it
        try:
            scene.peer.connection.abort()
            scene.peer = await scene.service.peer()
            await later(wait_until, lambda: scene.store.is_connected)  # and has mapped it anew
            with pytest.raises(ServiceError, match="lost with the connection"):
                lease.step(0)
            assert records[0] == record_of("a", 0, 0)  # who uses it keeps it
            assert number_of_mappings(name) == 2
            del records, reading
            await later(wait_until, lambda: number_of_mappings(name) == 1)
        finally:
            gc.enable()
    os.close(fd)


def number_of_mappings(name: str) -> int:
    """Of this process, of a file of memory."""
    return Path("/proc/self/maps").read_text().count(name)
