from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is an extra: scripts/install --ray")
from ray.exceptions import RayActorError

from instgenie_server.ray_engine.remote_process import RemoteProcess
from instgenie_server.ray_engine.replica_actor import Chunk


class Method:
    """Of an actor, as Ray's handles have them."""

    def __init__(self, call: Any) -> None:
        self.remote = call


class FakeActor:
    """Runs a process of which the test says what becomes."""

    def __init__(self) -> None:
        self.written: asyncio.Queue[Chunk | int | Exception] = asyncio.Queue()
        self.signals: list[int] = []
        self.is_ended = False
        self.read = Method(self._read)
        self.signal = Method(self.signals.append)

    async def _read(self) -> Chunk | int:
        heard = await self.written.get()
        if isinstance(heard, Exception):
            raise heard
        return heard

    async def end(self, actor: object) -> None:
        assert actor is self
        self.is_ended = True


def process_of(actor: FakeActor) -> RemoteProcess:
    return RemoteProcess(actor, 42, end_actor=actor.end, kill_seconds=0)


async def soon(waited_for: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(waited_for, 10)


async def test_its_output_and_its_end_are_passed_on() -> None:
    actor = FakeActor()
    process = process_of(actor)
    for heard in (Chunk(False, b"serving "), Chunk(True, b"a line\n"), Chunk(False, b"at x\n"), 3):
        actor.written.put_nowait(heard)
    assert await soon(process.wait()) == 3
    assert (process.pid, process.returncode) == (42, 3)
    assert await process.stdout.read() == b"serving at x\n"
    assert await process.stderr.read() == b"a line\n"
    assert actor.is_ended
    assert actor.signals == []


async def test_it_goes_with_its_actor_which_its_last_line_tells() -> None:
    actor = FakeActor()
    process = process_of(actor)
    actor.written.put_nowait(RayActorError())
    assert await soon(process.wait()) == -signal.SIGKILL
    assert (await process.stderr.read()).startswith(b"error: the process went with its Ray actor: ")
    assert await process.stdout.read() == b""


async def test_who_stops_waiting_does_not_end_it() -> None:
    actor = FakeActor()
    process = process_of(actor)
    waiting = asyncio.create_task(process.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert process.returncode is None
    process.terminate()
    assert actor.signals == [signal.SIGTERM]
    actor.written.put_nowait(0)
    assert await soon(process.wait()) == 0


async def test_one_that_is_killed_has_ended_though_its_machine_says_nothing() -> None:
    actor = FakeActor()
    process = process_of(actor)
    process.kill()
    process.kill()
    assert await soon(process.wait()) == -signal.SIGKILL
    assert actor.is_ended
    assert actor.signals == [signal.SIGKILL, signal.SIGKILL]
    assert await process.stderr.read() == b"error: nothing is heard from the process's machine\n"
