"""A lease of a service store that reads blocks, and a service that says what a test wants it to say."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from instgenie_cache.errors import CacheError, ChecksumError, ProtocolError, RecordFormatError, ServiceError
from instgenie_cache.wire.messages import Fetch, FetchReply, Release, Tiers, TiersReply
from tests.cache.scene import Scene, later, settled, staged, step_bytes
from tests.cache.service_records import QUICK, SIZE, record_of


@asynccontextmanager
async def mapped(tmp_path: Path, steps: int = SIZE.steps) -> AsyncIterator[Scene]:
    """A service whose memory holds the steps, one after the other, and room for two more."""
    fd = os.memfd_create("arena")
    arena_bytes = (steps + 2) * SIZE.step_bytes
    os.truncate(fd, arena_bytes)
    for step in range(steps):
        os.pwrite(fd, step_bytes(step), step * SIZE.step_bytes)
    async with staged(tmp_path / "s", arena_bytes=arena_bytes, fd=fd) as scene:
        yield scene
    os.close(fd)


def place_of(step: int) -> FetchReply:
    return FetchReply(lost=False, pieces=[[step * SIZE.step_bytes, SIZE.step_bytes]])


def some_bytes(step: int, first: int, stop: int) -> bytes:
    return step_bytes(step)[SIZE.offset(first) : SIZE.offset(stop)]


async def test_blocks_are_sent_and_nothing_is_asked_for_ahead(tmp_path: Path) -> None:
    async with staged(tmp_path / "s") as scene:
        lease = await scene.lease()
        for _ in range(2):  # they are not kept
            reading = later(lease.blocks, 1, 1, 3)
            number, request = await scene.peer.expect(Fetch)
            assert request == Fetch(lease=1, step=1, blocks=[1, 3])
            scene.peer.reply(number, FetchReply(lost=False), [some_bytes(1, 1, 3)])
            assert await reading == [record_of("a", 1, 1), record_of("a", 1, 2)]
        await settled(scene)


async def test_lost_blocks_are_none(tmp_path: Path) -> None:
    async with staged(tmp_path / "s") as scene:
        lease = await scene.lease()
        reading = later(lease.blocks, 0, 0, 1)
        scene.peer.reply((await scene.peer.expect(Fetch))[0], FetchReply(lost=True))
        assert await reading is None


async def test_corrupt_blocks_are_found_and_not_returned(tmp_path: Path) -> None:
    async with staged(tmp_path / "s") as scene:
        lease = await scene.lease()
        reading = later(lease.blocks, 0, 1, 2)
        data = bytearray(some_bytes(0, 1, 2))
        data[700] ^= 1
        scene.peer.reply((await scene.peer.expect(Fetch))[0], FetchReply(lost=False), [bytes(data)])
        with pytest.raises(ChecksumError):
            await reading


async def test_other_blocks_than_were_asked_for_are_refused(tmp_path: Path) -> None:
    async with staged(tmp_path / "s") as scene:
        lease = await scene.lease()
        reading = later(lease.blocks, 0, 1, 2)
        scene.peer.reply((await scene.peer.expect(Fetch))[0], FetchReply(lost=False), [some_bytes(0, 0, 1)])
        with pytest.raises(RecordFormatError, match="block 1"):
            await reading


@pytest.mark.parametrize("payload", [[step_bytes(0)], []])
async def test_blocks_of_another_length_are_refused(tmp_path: Path, payload: list[bytes]) -> None:
    async with staged(tmp_path / "s") as scene:
        lease = await scene.lease()
        reading = later(lease.blocks, 0, 0, 2)
        scene.peer.reply((await scene.peer.expect(Fetch))[0], FetchReply(lost=False), payload)
        with pytest.raises(ProtocolError):
            await reading


async def test_step_that_is_in_memory_is_asked_for_once(tmp_path: Path) -> None:
    async with mapped(tmp_path) as scene:
        lease = await scene.lease()
        reading = later(lease.blocks, 2, 0, 1)
        number, request = await scene.peer.expect(Fetch)
        assert request.blocks == [0, 1]
        scene.peer.reply(number, place_of(2))
        assert await reading == [record_of("a", 2, 0)]
        assert await later(lease.blocks, 2, 1, 3) == [record_of("a", 2, 1), record_of("a", 2, 2)]
        await settled(scene)
        lease.release()
        assert (await scene.peer.expect(Release))[1] == Release(lease=1)


async def test_steps_of_which_blocks_were_read_are_let_go_as_others_come(tmp_path: Path) -> None:
    async with mapped(tmp_path) as scene:  # of which a lease keeps three steps
        lease = await scene.lease()
        for step in range(4):
            reading = later(lease.blocks, step, 0, 1)
            number, _ = await scene.peer.expect(Fetch)
            scene.peer.reply(number, place_of(step))
            assert await reading == [record_of("a", step, 0)]
        assert (await scene.peer.expect(Release))[1] == Release(lease=1, step=0)


async def test_step_that_was_asked_for_ahead_is_not_asked_for_again(tmp_path: Path) -> None:
    async with staged(tmp_path / "s") as scene:
        lease = await scene.lease()
        reading = later(lease.step, 0)
        await scene.send_step(0)
        await reading
        reading = later(lease.blocks, 1, 2, 3)
        await scene.send_step(1)  # which was asked for while step 0 was used
        assert await reading == [record_of("a", 1, 2)]
        assert await later(lease.blocks, 1, 0, 1) == [record_of("a", 1, 0)]
        await settled(scene)


async def test_lease_that_is_released_while_blocks_are_awaited(tmp_path: Path) -> None:
    async with mapped(tmp_path) as scene:
        lease = await scene.lease()
        reading = later(lease.blocks, 0, 0, 1)
        number, _ = await scene.peer.expect(Fetch)
        lease.release()  # does not wait
        assert not lease.is_valid
        assert (await scene.peer.expect(Release))[1] == Release(lease=1)
        scene.peer.reply(number, place_of(3))  # as if another step were there by now
        with pytest.raises(CacheError, match="released before"):
            await reading


async def test_blocks_that_do_not_come_in_time(tmp_path: Path) -> None:
    hasty = replace(QUICK, step_seconds=0.05)
    async with staged(tmp_path / "s", settings=hasty) as scene:
        lease = await scene.lease()
        with pytest.raises(ServiceError, match=r"no answer to fetch within 0\.05 s"):
            await later(lease.blocks, 0, 0, 1)


async def test_blocks_and_tiers_of_a_lease_whose_connection_ended(tmp_path: Path) -> None:
    async with staged(tmp_path / "s") as scene:
        lease = await scene.lease()
        reading = later(lease.blocks, 0, 0, 1)
        await scene.peer.expect(Fetch)
        scene.peer.connection.abort()
        with pytest.raises(ServiceError):
            await reading
        assert not lease.is_valid
        for call in (lambda: lease.blocks(0, 0, 1), lease.tiers):
            with pytest.raises(ServiceError, match="lost with the connection"):
                await later(call)


async def test_readers_take_turns(tmp_path: Path) -> None:
    """So that none of them keeps a step that another one has let go."""
    async with mapped(tmp_path) as scene:
        lease = await scene.lease()
        readings = [later(lease.blocks, 0, block, block + 1) for block in range(3)]
        number, _ = await scene.peer.expect(Fetch)
        scene.peer.reply(number, place_of(0))
        assert [await reading for reading in readings] == [[record_of("a", 0, block)] for block in range(3)]
        await settled(scene)


async def test_tiers_are_asked_for_at_once(tmp_path: Path) -> None:
    async with staged(tmp_path / "s") as scene:
        lease = await scene.lease()
        reading = later(lease.blocks, 0, 0, 1)  # which waits
        await scene.peer.expect(Fetch)
        asking = later(lease.tiers)
        number, request = await scene.peer.expect(Tiers)
        assert request == Tiers(lease=1)
        scene.peer.reply(number, TiersReply(tiers=["host", "disk", "object", "disk"]))
        assert await asking == ["host", "disk", "object", "disk"]
        assert not reading.done()
        lease.release()
        scene.peer.connection.abort()
        await asyncio.wait([reading])
        assert isinstance(reading.exception(), CacheError)


@pytest.mark.parametrize("tiers", [["host"], ["host"] * 5, ["host", "disk", "shelf", "disk"]])
async def test_tiers_that_cannot_be(tmp_path: Path, tiers: list[str]) -> None:
    async with staged(tmp_path / "s") as scene:
        lease = await scene.lease()
        asking = later(lease.tiers)
        scene.peer.reply((await scene.peer.expect(Tiers))[0], TiersReply(tiers=tiers))
        with pytest.raises(ProtocolError, match="are not the tiers of 4 steps"):
            await asking
