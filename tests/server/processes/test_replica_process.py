"""`instgenie serve` and the replica process that it starts: whoever dies, no edit is left without an end."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.server.intake.pictures import assert_alike
from tests.server.processes.requests import edit_form, ended_job, metric, picture_png
from tests.server.processes.server_process import START_SECONDS, ServerProcess, environment
from tests.server.processes.test_cache_service import wait_for_end

pytestmark = pytest.mark.timeout(480)

READY = r'"process_id": (\d+), "event": "the replica is ready"'
CONNECTED = r'"event": "connected to the replica"'
EDITS = 8
STEPS = 150  # long enough to be met by what the test does


def replica_of(server: ServerProcess, lives: int = 1) -> int:
    """The server's replica process, once so many have been ready."""
    server.until("(?s)" + ".*".join([READY] * lives))
    return int(re.findall(READY, server.log())[-1])


def kill(process_id: int) -> None:
    os.kill(process_id, signal.SIGKILL)


@contextmanager
def held_up(process_id: int) -> Iterator[None]:
    """Let a process do nothing meanwhile: however slow the test is, the process is not faster."""
    os.kill(process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process_id, signal.SIGCONT)


async def running(session: aiohttp.ClientSession, count: int) -> None:
    """Wait until so many edits are on the replica, at least one of them in a step."""
    async with asyncio.timeout(60):
        while True:
            phases = [
                await metric(session, f'instgenie_replica_edits{{phase="{phase}",replica="1"}}')
                for phase in ("waiting", "running")
            ]
            if sum(phases) >= count and phases[1]:
                return


async def in_flight(session: aiohttp.ClientSession, count: int) -> None:
    """Wait until so many requests are being answered."""
    async with asyncio.timeout(30):
        while await metric(session, "instgenie_http_in_flight") < count:
            pass


async def submitted(session: aiohttp.ClientSession, count: int, steps: int = STEPS) -> list[str]:
    """Ids of so many jobs."""
    ids = []
    for seed in range(count):
        async with session.post("/v1/edits", data=edit_form(picture_png(seed % 2), seed=seed, steps=steps)) as reply:
            assert reply.status == 202, await reply.text()
            ids.append((await reply.json())["id"])
    return ids


async def edited(session: aiohttp.ClientSession, seed: int, steps: int = STEPS) -> bytes:
    """The picture of an edit at once."""
    async with session.post("/v1/images/edits", data=edit_form(picture_png(0), seed=seed, steps=steps)) as reply:
        assert reply.status == 200, await reply.text()
        return base64.b64decode((await reply.json())["data"][0]["b64_json"])


async def test_jobs_outlive_their_replica(tiny_builtin: Path, tmp_path: Path) -> None:
    with ServerProcess(tiny_builtin, tmp_path) as server:
        async with aiohttp.ClientSession(server.url) as session:
            first = replica_of(server)
            with held_up(first):
                ids = await submitted(session, EDITS)
            await running(session, EDITS)
            kill(first)
            ends = await asyncio.gather(*(ended_job(session, job_id, 120) for job_id in ids))
            for end in ends:
                assert end["status"] == "done" or (end["status"] == "failed" and end["error"]["message"]), end
            assert [end["status"] for end in ends] == ["done"] * EDITS
            assert replica_of(server, lives=2) != first
            assert await metric(session, 'instgenie_replica_restarts{replica="1"}') == 1
            async with session.get("/readyz") as reply:
                assert reply.status == 200
            async with session.get(f"/v1/edits/{ids[0]}/image") as reply:
                assert_alike(await reply.read(), await edited(session, seed=0))
        assert "Traceback" not in server.log()
        assert '"the replica is gone"' in server.log()


async def test_who_waits_for_an_edit_gets_it_from_the_next_replica(tiny_builtin: Path, tmp_path: Path) -> None:
    with ServerProcess(tiny_builtin, tmp_path) as server:
        async with aiohttp.ClientSession(server.url) as session:
            edits = [asyncio.create_task(edited(session, seed=seed)) for seed in range(EDITS)]
            await running(session, EDITS)
            kill(replica_of(server))
            pictures = await asyncio.gather(*edits)
            assert_alike(pictures[0], await edited(session, seed=0))
        assert "Traceback" not in server.log()


async def test_a_job_that_kills_every_replica_fails_with_a_reason(tiny_builtin: Path, tmp_path: Path) -> None:
    with ServerProcess(tiny_builtin, tmp_path) as server:
        async with aiohttp.ClientSession(server.url) as session:
            (job_id,) = await submitted(session, 1, steps=1000)
            for lives in range(1, 4):
                process_id = replica_of(server, lives)
                await running(session, 1)
                kill(process_id)
            end = await ended_job(session, job_id)
            assert (end["status"], end["error"]["code"]) == ("failed", "edit_failed")
            assert "replica" in end["error"]["message"]
            replica_of(server, lives=4)
            await edited(session, seed=0, steps=1)
        assert "Traceback" not in server.log()


async def test_while_a_replica_is_away(tiny_builtin: Path, tmp_path: Path) -> None:
    """The server says that it is not ready, keeps jobs in the queue, and answers what needs no replica."""
    with ServerProcess(tiny_builtin, tmp_path) as server:
        async with aiohttp.ClientSession(server.url) as session:
            kill(replica_of(server))
            async with asyncio.timeout(60):
                while True:
                    async with session.get("/readyz") as reply:
                        if reply.status == 503:
                            assert (await reply.json())["status"] == "starting"
                            break
            (job_id,) = await submitted(session, 1, steps=2)
            async with session.get(f"/v1/edits/{job_id}") as reply:
                assert (await reply.json())["status"] == "queued"
            assert await metric(session, 'instgenie_replica_up{replica="1"}') == 0
            assert (await ended_job(session, job_id))["status"] == "done"
            async with session.get("/readyz") as reply:
                assert reply.status == 200
        assert len(re.findall(CONNECTED, server.log())) == 2


async def test_stopped_with_edits_running(tiny_builtin: Path, tmp_path: Path) -> None:
    with ServerProcess(tiny_builtin, tmp_path) as server:
        process_id = replica_of(server)
        async with aiohttp.ClientSession(server.url) as session:
            with held_up(process_id):
                edits = [asyncio.create_task(edited(session, seed=seed)) for seed in range(4)]
                await in_flight(session, 4)
                ids = await submitted(session, 2)
            await running(session, 6)
            server.signal(signal.SIGTERM)
            assert all(await asyncio.gather(*edits))
        assert server.end() == 0, server.log()
        assert "Traceback" not in server.log()
        wait_for_end(process_id)
    with ServerProcess(tiny_builtin, tmp_path) as server:
        async with aiohttp.ClientSession(server.url) as session:
            ends = [await ended_job(session, job_id) for job_id in ids]
            assert [end["status"] for end in ends] == ["done"] * 2


async def test_a_killed_server_leaves_no_replica_behind(tiny_builtin: Path, tmp_path: Path) -> None:
    with ServerProcess(tiny_builtin, tmp_path) as server:
        process_id = replica_of(server)
        async with aiohttp.ClientSession(server.url) as session:
            await submitted(session, 2, steps=1000)
            await running(session, 2)
            server.kill()
    wait_for_end(process_id)


def test_the_server_does_not_load_what_computes(tiny_builtin: Path, tmp_path: Path) -> None:
    with ServerProcess(tiny_builtin, tmp_path) as server:
        own, other = (
            Path(f"/proc/{process_id}/maps").read_text() for process_id in (server.process.pid, replica_of(server))
        )
    assert "libtorch" in other
    assert "libtorch" not in own


async def test_a_replica_in_the_servers_process(tiny_builtin: Path, tmp_path: Path) -> None:
    with ServerProcess(tiny_builtin, tmp_path, "--replica", "inline") as server:
        async with aiohttp.ClientSession(server.url) as session:
            assert await edited(session, seed=0, steps=2)
            assert await metric(session, 'instgenie_replica_up{replica="1"}') == 1
        server.signal(signal.SIGTERM)
        assert server.end() == 0, server.log()
    assert not re.search(READY, server.log())


@pytest.fixture
def other_replica(tiny_builtin: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A replica that no server started: its address and process."""
    with tempfile.TemporaryDirectory(prefix="instgenie-test-") as folder:
        address = f"unix:{folder}/replica.sock"
        options = ("--listen", address, "--model", str(tiny_builtin), "--dtype", "float32", "--threads", "1")
        process = subprocess.Popen(
            (sys.executable, "-m", "instgenie.replica", *options),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(),
        )
        try:
            yield address, process
        finally:
            process.kill()
            process.communicate(timeout=START_SECONDS)


async def test_a_replica_of_somebody_else(
    tiny_builtin: Path, tmp_path: Path, other_replica: tuple[str, subprocess.Popen[str]]
) -> None:
    """The server waits for it, uses it, and leaves it as it is."""
    address, process = other_replica
    with ServerProcess(tiny_builtin, tmp_path, "--replica", address) as server:
        async with aiohttp.ClientSession(server.url) as session:
            assert await edited(session, seed=0, steps=2)
        server.signal(signal.SIGTERM)
        assert server.end() == 0, server.log()
    assert process.poll() is None
