"""A server that is told to stop lets what runs come to its end, and keeps the rest for its next start."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.server.intake.pictures import assert_alike
from tests.server.processes.requests import all_jobs, edit_form, ended_job, picture_png
from tests.server.processes.server_process import ServerProcess
from tests.server.processes.test_replica_process import CONNECTED, READY, held_up, in_flight, replica_of

pytestmark = pytest.mark.timeout(480)

TWO_REPLICAS = ("--replicas", "2", "--device", "cpu")
BOTH_CONNECTED = f"(?s){CONNECTED}.*{CONNECTED}"
RUNNING = 3
JOBS = 4
STEPS = 30  # few enough that they end within the time that a stop takes


async def sync_edit(session: aiohttp.ClientSession, seed: int, steps: int) -> bytes:
    """The picture of an edit at once."""
    async with session.post("/v1/images/edits", data=edit_form(picture_png(0), seed=seed, steps=steps)) as response:
        assert response.status == 200, await response.text()
        return base64.b64decode((await response.json())["data"][0]["b64_json"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_drain(tiny_builtin: Path, tmp_path: Path, number: signal.Signals) -> None:
    with ServerProcess(tiny_builtin, tmp_path) as server:
        async with aiohttp.ClientSession(server.url) as session:
            first = await sync_edit(session, seed=0, steps=STEPS)
            with held_up(replica_of(server)):
                edits = [asyncio.create_task(sync_edit(session, seed=0, steps=STEPS)) for _ in range(RUNNING)]
                await in_flight(session, RUNNING)
                accepted = []
                for seed in range(JOBS):
                    async with session.post("/v1/edits", data=edit_form(picture_png(1), seed=seed, steps=60)) as reply:
                        assert reply.status == 202
                        accepted.append(await reply.json())
                watched = asyncio.create_task(ended_or_cut(session, accepted[-1]["id"]))
                await in_flight(session, RUNNING + 1)
                server.signal(number)
                await asyncio.to_thread(server.until, '"stopping"')
                assert not any(edit.done() for edit in edits)
            for picture in await asyncio.gather(*edits):
                assert_alike(picture, first)
            await watched
        code = await asyncio.to_thread(server.end)
        assert code == 0, server.log()
        assert "Traceback" not in server.log()
        assert "stopping" in server.log()
    with ServerProcess(tiny_builtin, tmp_path) as server:
        async with aiohttp.ClientSession(server.url) as session:
            ends = [await ended_job(session, job["id"]) for job in accepted]
            assert [job["status"] for job in ends] == ["done"] * JOBS
            assert [job["seed"] for job in ends] == list(range(JOBS))
            assert len(await all_jobs(session)) == JOBS


def told_above_info(server: ServerProcess, logger: str = "") -> list[str]:
    """Its log lines that are no mere information, of loggers of that name."""
    logged = [json.loads(line) for line in server.lines if line.startswith("{")]
    return [
        line["event"] for line in logged if line["level"] not in ("debug", "info") and line["logger"].startswith(logger)
    ]


async def test_a_stop_is_no_reason_to_warn(tiny_builtin: Path, tmp_path: Path) -> None:
    """With jobs that are cut short, and replicas whose connections end."""
    with ServerProcess(tiny_builtin, tmp_path, *TWO_REPLICAS, own_cache=True) as server:
        await asyncio.to_thread(server.until, BOTH_CONNECTED)
        async with aiohttp.ClientSession(server.url) as session:
            for seed in range(JOBS):
                async with session.post("/v1/edits", data=edit_form(picture_png(seed), seed=seed, steps=1000)) as reply:
                    assert reply.status == 202
            before = len(told_above_info(server))
            server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.end) == 0, server.log()
    assert told_above_info(server)[before:] == []


def test_replicas_that_are_told_to_stop_with_it_are_not_either(tiny_builtin: Path, tmp_path: Path) -> None:
    """As by systemd, which tells all processes of a service at the same time."""
    with ServerProcess(tiny_builtin, tmp_path, *TWO_REPLICAS) as server:
        server.until(BOTH_CONNECTED)
        before = len(told_above_info(server, "instgenie_server"))
        for process_id in re.findall(READY, server.log()):
            os.kill(int(process_id), signal.SIGTERM)
        server.signal(signal.SIGTERM)
        assert server.end() == 0, server.log()
    assert told_above_info(server, "instgenie_server")[before:] == [], server.log()


async def ended_or_cut(session: aiohttp.ClientSession, job_id: str) -> None:
    """Watch a job until its stream is over, whichever way: watchers must not hold the server up."""
    try:
        async with session.get(f"/v1/edits/{job_id}/events") as response:
            async for _ in response.content:
                pass
    except aiohttp.ClientError:
        pass


async def test_asked_while_it_stops(tiny_builtin: Path, tmp_path: Path) -> None:
    """Each request is accepted and kept, refused with a time to come back, or finds nobody; the running one ends."""
    accepted: set[str] = set()
    begun = asyncio.Event()

    async def ask_until_nobody_listens(session: aiohttp.ClientSession, seed: int) -> None:
        while True:
            try:
                async with session.post("/v1/edits", data=edit_form(picture_png(0), seed=seed, steps=1)) as reply:
                    if reply.status == 202:
                        accepted.add((await reply.json())["id"])
                        begun.set()
                        continue
                    # Seldom: it is given to those who are on their way in at that moment.
                    assert reply.status == 503, await reply.text()
                    assert int(reply.headers["retry-after"]) > 0
            except aiohttp.ClientConnectorError:
                return
            except aiohttp.ClientError:  # cut off: whether it was accepted is not known
                continue

    with ServerProcess(tiny_builtin, tmp_path) as server:
        async with aiohttp.ClientSession(server.url) as session, asyncio.timeout(60):
            with held_up(replica_of(server)):
                running = asyncio.create_task(sync_edit(session, seed=0, steps=2))
                await in_flight(session, 1)
                asking = [asyncio.create_task(ask_until_nobody_listens(session, seed)) for seed in range(2)]
                await begun.wait()
                server.signal(signal.SIGTERM)
                await asyncio.gather(*asking)
                assert not running.done()  # they were turned away while it was stopping, not when it was gone
            assert await running
        assert server.end() == 0, server.log()
        assert "Traceback" not in server.log()
    with ServerProcess(tiny_builtin, tmp_path) as server:
        async with aiohttp.ClientSession(server.url) as session:
            kept = {job["id"] for job in await all_jobs(session)}
    assert accepted
    assert accepted <= kept


def test_stopped_while_it_starts(tiny_builtin: Path, tmp_path: Path) -> None:
    """A second signal is not needed, and what was being loaded is no error."""
    model = shutil.copytree(tiny_builtin, tmp_path / "model")
    index, whole_index = model / "model_index.json", model / "whole_index.json"
    index.rename(whole_index)
    os.mkfifo(index)  # whoever loads the model waits at it
    with ServerProcess(model, tmp_path / "data", ready=False) as server:
        with index.open("w") as pipe:  # once it is being read
            for _ in range(2):
                server.signal(signal.SIGTERM)
            server.until('"stopping"')
            pipe.write(whole_index.read_text())
            whole_index.rename(index)  # for those who read it again
        assert server.end() == 0, server.log()
        assert "serving at" not in server.log()
        assert "Traceback" not in server.log()
