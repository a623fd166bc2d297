"""A service store and a service that is slow, silent, wrong or gone, as a test says."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from instgenie_cache.errors import (
    CacheError,
    ChecksumError,
    ProtocolError,
    ServiceError,
    StoreFullError,
)
from instgenie_cache.records.record import Record, RecordKey, encode_record
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.wire.messages import (
    Abort,
    Commit,
    Fetch,
    FetchReply,
    Flush,
    PinReply,
    Prefetch,
    Put,
    Release,
)
from tests.cache.fake_service import FakePeer
from tests.cache.scene import answer_one, has_failed, later, staged, step_bytes
from tests.cache.service_records import QUICK, SIZE, record_of, wait_until

# Against a service that fails as a test says. The store's calls wait, so they run on other threads.


async def test_next_step_is_asked_for_while_one_is_used(tmp_path: Path) -> None:
    async with staged(tmp_path / "s") as scene:
        lease = await scene.lease()
        reading = later(lease.step, 0)
        await scene.send_step(0)
        assert (await reading)[0] == record_of("a", 0, 0)
        await scene.send_step(1)  # nobody asked yet
        assert (await later(lease.step, 1))[2] == record_of("a", 1, 2)
        number, request = await scene.peer.expect(Fetch)
        assert request.step == 2
        lease.prefetch([3, 0])
        assert (await scene.peer.expect(Prefetch))[1].steps == [3, 0]
        reading = later(lease.step, 3)
        await scene.send_step(3)
        assert (await reading)[1] == record_of("a", 3, 1)
        scene.peer.reply(number, FetchReply(lost=False), [step_bytes(2)])  # too late, thrown away
        lease.release()
        assert (await scene.peer.expect(Release))[1] == Release(lease=1)


async def test_corrupt_bytes_are_found_and_not_returned(tmp_path: Path) -> None:
    async with staged(tmp_path / "s") as scene:
        lease = await scene.lease()
        reading = later(lease.step, 0)
        number, _ = await scene.peer.expect(Fetch)
        data = bytearray(step_bytes(0))
        data[SIZE.offset(1) + 700] ^= 1
        scene.peer.reply(number, FetchReply(lost=False), [bytes(data)])
        with pytest.raises(ChecksumError):
            await reading


@pytest.mark.parametrize("pieces", [[[0, 4096]], [[0, 10**9]], [[0]], [[0, 2000], [4000, 100]]])
async def test_step_that_is_said_to_be_where_it_cannot_be(tmp_path: Path, pieces: list[list[int]]) -> None:
    fd = os.memfd_create("arena")
    os.truncate(fd, 1 << 20)
    is_long_enough = sum(piece[1] for piece in pieces if len(piece) == 2) >= SIZE.step_bytes
    async with staged(tmp_path / "s", arena_bytes=1 << 20, fd=fd) as scene:
        lease = await scene.lease()
        reading = later(lease.step, 0)
        number, _ = await scene.peer.expect(Fetch)
        scene.peer.reply(number, FetchReply(lost=False, pieces=pieces))
        with pytest.raises(CacheError):  # zeros are no record, either
            await reading
        assert is_long_enough or scene.store.is_connected
    os.close(fd)


async def test_step_of_another_length_ends_the_connection(tmp_path: Path) -> None:
    async with staged(tmp_path / "s") as scene:
        lease = await scene.lease()
        reading = later(lease.step, 0)
        number, _ = await scene.peer.expect(Fetch)
        scene.peer.reply(number, FetchReply(lost=False), [step_bytes(0)[:-1]])
        with pytest.raises(ProtocolError, match=f"bytes of a step, {SIZE.step_bytes} were expected"):
            await reading
        assert not lease.is_valid


async def test_lost_step_is_none(tmp_path: Path) -> None:
    async with staged(tmp_path / "s") as scene:
        lease = await scene.lease()
        reading = later(lease.step, 0)
        scene.peer.reply((await scene.peer.expect(Fetch))[0], FetchReply(lost=True))
        assert await reading is None


async def test_mapped_steps_stay_until_they_would_fill_a_quarter_of_the_memory(tmp_path: Path) -> None:
    steps = 7
    fd = os.memfd_create("arena")
    os.truncate(fd, 16 * SIZE.step_bytes)  # a quarter are 4 steps, of which one is read ahead
    for step in range(steps):
        os.pwrite(fd, step_bytes(step), step * SIZE.step_bytes)
    released: list[int | None] = []

    async def serve(peer: FakePeer) -> None:
        while True:
            number, request, _ = await peer.next()
            if isinstance(request, Fetch):
                piece = [request.step * SIZE.step_bytes, SIZE.step_bytes]
                peer.reply(number, FetchReply(lost=False, pieces=[piece]))
            elif isinstance(request, Release):
                released.append(request.step)
            else:
                peer.reply(number, PinReply(held=False))

    async with staged(tmp_path / "s", arena_bytes=16 * SIZE.step_bytes, fd=fd) as scene:
        lease = await scene.lease(steps)
        serving = asyncio.create_task(serve(scene.peer))
        for step, gone in enumerate([[], [], [], [0], [0, 1], [0, 1, 2], [0, 1, 2]]):
            assert (await later(lease.step, step))[0] == record_of("a", step, 0)
            await later(scene.store.pin, "what was asked before has arrived")
            assert released == gone
        await later(lease.step, 5)
        lease.release()
        await later(scene.store.pin, "what was asked before has arrived")
        assert released == [0, 1, 2, None]
        serving.cancel()
    os.close(fd)


async def test_put_that_is_refused_is_told_at_the_next_put_or_at_the_commit(tmp_path: Path) -> None:
    async with staged(tmp_path / "s", credit_bytes=1 << 20) as scene:
        for end in ("put", "commit"):
            writer = await scene.create()
            await later(writer.put, 0, 0, record_of("a", 0, 0))
            number, request, data = await scene.writing.next()
            assert request == Put(writer=1, step=0, block=0)
            assert data == encode_record(RecordKey("a", 0, 0), record_of("a", 0, 0))
            if end == "commit":
                ending = later(writer.commit)
                scene.writing.fail(number, StoreFullError("no room"))
            else:
                scene.writing.fail(number, StoreFullError("no room"))
                await later(wait_until, partial(has_failed, writer))
                ending = later(writer.put, 0, 1, record_of("a", 0, 1))
            number, request = await scene.writing.expect(Abort)
            assert request.writer == 1
            scene.writing.reply(number)
            with pytest.raises(StoreFullError, match="no room"):
                await ending
            with pytest.raises(CacheError, match="committed or aborted before"):
                writer.commit()


async def test_puts_do_not_wait_for_answers_but_for_credit(tmp_path: Path) -> None:
    stored = SIZE.stored_record_bytes
    async with staged(tmp_path / "s", credit_bytes=2 * stored) as scene:
        writer = await scene.create(TemplateSize(1, 3, SIZE.record_bytes))
        for block in (0, 1):
            await later(writer.put, 0, block, record_of("a", 0, block))
        third = later(writer.put, 0, 2, record_of("a", 0, 2))
        numbers = [(await scene.writing.expect(Put))[0] for _ in range(2)]
        assert not third.done()
        scene.writing.reply(numbers[0])
        await third
        numbers.append((await scene.writing.expect(Put))[0])
        committing = later(writer.commit, 7.0)
        for number in numbers[1:]:
            assert not scene.writing.has_requests  # the commit waits for them
            scene.writing.reply(number)
        number, request = await scene.writing.expect(Commit)
        assert request == Commit(writer=1, cost_ms=7.0)
        scene.writing.reply(number)
        await committing
        flushing = later(scene.store.flush)
        scene.writing.reply((await scene.writing.expect(Flush))[0])
        await flushing
        scene.store.flush()  # nothing new: nobody is asked


async def test_service_that_is_slow_with_one_thing_is_asked_for_others(tmp_path: Path) -> None:
    hasty = replace(QUICK, step_seconds=0.05, write_seconds=0.05)
    async with staged(tmp_path / "s", settings=hasty) as scene:
        lease = await scene.lease()
        with pytest.raises(ServiceError, match=r"no answer to fetch within 0\.05 s"):
            await later(lease.step, 0)
        await scene.peer.expect(Fetch)
        await scene.say_alive()

        writer = await scene.create(TemplateSize(1, 1, 100))
        await later(writer.put, 0, 0, Record("raw", "uint8", (100,), memoryview(bytes(100))))
        committing = later(writer.commit)
        number, _ = await scene.writing.expect(Put)
        await scene.say_alive(scene.writing)
        scene.writing.reply((await scene.writing.expect(Abort))[0])
        with pytest.raises(ServiceError, match=r"1 puts were not answered within 0\.05 s in all"):
            await committing
        assert scene.store.is_connected

        other = await scene.create(TemplateSize(1, 1, 900))
        putting = later(other.put, 0, 0, Record("raw", "uint8", (900,), memoryview(bytes(900))))
        await scene.say_alive(scene.writing)
        scene.writing.reply((await scene.writing.expect(Abort))[0])
        with pytest.raises(ServiceError, match=r"a put got no credit within 0\.05 s in all"):
            await putting
        scene.writing.reply(number)
        assert scene.store.misses_unreachable == 0


async def test_time_that_a_writer_waits_is_counted_in_all(tmp_path: Path) -> None:
    record = Record("raw", "uint8", (100,), memoryview(bytes(100)))
    async with staged(tmp_path / "s", credit_bytes=1, settings=replace(QUICK, write_seconds=5.0)) as scene:
        writer = await scene.create(TemplateSize(1, 3, 100))
        await later(writer.put, 0, 0, record)
        second = later(writer.put, 0, 1, record)
        await asyncio.wait([second], timeout=3.0)
        await answer_one(scene.writing)
        await second
        began = time.monotonic()
        third = later(writer.put, 0, 2, record)
        with pytest.raises(ServiceError, match=r"a put got no credit within 5\.0 s in all"):
            await third
        assert time.monotonic() - began < 4.5
