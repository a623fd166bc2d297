"""The server's own cache service, as a real process."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from structlog.testing import capture_logs

from instgenie_cache.client.cache_client import CacheClient
from instgenie_cache.errors import CacheError
from instgenie_cache.open_store import socket_of
from instgenie_cache.tiers.folder_lock import FolderLock
from instgenie_cache.wire.address import Address
from instgenie_server.processes.kept_process import KeptProcess
from instgenie_server.processes.restarts import Restarts
from instgenie_server.record_cache.cache_process import cache_process
from instgenie_server.record_cache.service_command import START_ATTEMPTS, ServiceCommand
from tests.server.record_cache.services import running_service

LIMIT_SECONDS = 60
ENDED = "the cache service ended"


def process_of(folder: Path, draw: float = 0.0) -> KeptProcess:
    command = ServiceCommand(folder=folder, socket=socket_of(folder), host_bytes=8 << 20, disk_bytes=64 << 20)
    return cache_process(command, Restarts(lambda: draw, first_seconds=0.01))


async def answers(folder: Path) -> bool:
    try:
        client = await CacheClient.connect(Address(path=str(socket_of(folder))), client="test")
    except CacheError:
        return False
    await client.close()
    return True


async def a_process(process: KeptProcess, not_this: int | None = None) -> int:
    """A process of its service, once there is one."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while process.process_id in (None, not_this):  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(0.01)
    assert process.process_id is not None
    return process.process_id


async def own_process(process: KeptProcess, folder: Path, not_this: int | None = None) -> int:
    """The process of its service, once that answers."""
    process_id = await a_process(process, not_this)
    async with asyncio.timeout(LIMIT_SECONDS):
        while not await answers(folder):  # noqa: ASYNC110 - nor when another process listens
            await asyncio.sleep(0.01)
    return process_id


def is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


async def test_it_answers_from_start_to_stop(tmp_path: Path) -> None:
    async with process_of(tmp_path) as process:
        assert await process.start()
        process_id = process.process_id
        assert process_id is not None
        assert await answers(tmp_path)
    assert not is_alive(process_id)
    assert not socket_of(tmp_path).exists()


async def test_it_is_started_again_when_it_dies(tmp_path: Path) -> None:
    with capture_logs() as logged:
        async with process_of(tmp_path) as process:
            assert await process.start()
            first = await own_process(process, tmp_path)
            os.kill(first, signal.SIGKILL)
            second = await own_process(process, tmp_path, not_this=first)
            assert second != first
    assert not is_alive(second)
    assert [line["code"] for line in logged if line["event"] == ENDED] == [-signal.SIGKILL]


async def test_one_that_runs_already_is_used_and_replaced_once_it_ends(tmp_path: Path) -> None:
    async with process_of(tmp_path) as process:
        async with running_service(tmp_path):
            assert await process.start()
            assert process.process_id is None
        await own_process(process, tmp_path)


async def test_one_that_cannot_be_started_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with capture_logs() as logged:
        async with process_of(tmp_path / "file" / "records") as process:
            assert not await process.start()
    ends = [line for line in logged if line["event"] == ENDED]
    assert len(ends) == START_ATTEMPTS
    assert "Not a directory" in ends[0]["last_line"]


async def test_it_waits_for_a_folder_that_is_in_use(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.take()
    async with process_of(tmp_path) as process:
        starting = asyncio.create_task(process.start())
        first = await a_process(process)
        await a_process(process, not_this=first)
        lock.release()
        assert await starting


async def test_stopped_while_it_starts(tmp_path: Path) -> None:
    process = process_of(tmp_path)
    starting = asyncio.create_task(process.start())
    process_id = await a_process(process)
    await process.stop()
    assert not is_alive(process_id)
    assert not await starting
    await process.stop()
