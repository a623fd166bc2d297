"""`instgenie serve --replicas 2`: whichever replica dies or is renewed, no edit is left without an end."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.server.processes.requests import edit_form, ended_job, metric, picture_png
from tests.server.processes.server_process import START_SECONDS, ServerProcess
from tests.server.processes.test_cache_service import wait_for_end
from tests.server.processes.test_replica_process import held_up, in_flight

pytestmark = pytest.mark.timeout(600)

NAMES = ("1", "2")
STEPS = 60  # long enough that several are met by what the test does
LONG_STEPS = 300  # so long that those which were submitted first still run when the last one is
ROUNDS, EDITS = 20, 6
RENEW_SECONDS = 200.0  # two processes that start while two clients' edits are computed, on two cores


async def process_of(server: ServerProcess, session: aiohttp.ClientSession, name: str) -> int:
    """The newest process of a replica that was ready. The log that tells of it may come later than other answers."""
    counts = [
        await metric(session, f'instgenie_replica_{kind}{{replica="{name}"}}') for kind in ("restarts", "renewals")
    ]
    lives = 1 + sum(counts)
    async with asyncio.timeout(60):
        while True:
            lines = [json.loads(line) for line in server.log().splitlines() if '"the replica is ready"' in line]
            process_ids = [told["process_id"] for told in lines if told["replica"] == name]
            if len(process_ids) >= lives:
                return int(process_ids[-1])
            await asyncio.sleep(0.05)


async def processes(server: ServerProcess, session: aiohttp.ClientSession) -> dict[str, int]:
    """Those of all replicas, by their names."""
    return {name: await process_of(server, session, name) for name in NAMES}


async def all_ready(session: aiohttp.ClientSession) -> None:
    """Wait until both replicas take edits."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            async with session.get("/readyz") as reply:
                if (await reply.json())["replicas"]["ready"] == len(NAMES):
                    return
            await asyncio.sleep(0.05)


@asynccontextmanager
async def fleet(model: Path, folder: Path, *options: str) -> AsyncIterator[tuple[ServerProcess, aiohttp.ClientSession]]:
    """A server with two replicas that share a cache service, all of them ready."""
    options = ("--replicas", "2", "--device", "cpu", *options)
    with ServerProcess(model, folder, *options, own_cache=True) as server:
        async with aiohttp.ClientSession(server.url) as session:
            await all_ready(session)
            yield server, session
        assert "Traceback" not in server.log(), server.log()


async def submitted(session: aiohttp.ClientSession, seed: int, steps: int = STEPS) -> str:
    """The id of a job."""
    async with session.post("/v1/edits", data=edit_form(picture_png(seed % 3), seed=seed, steps=steps)) as reply:
        assert reply.status == 202, await reply.text()
        job_id: str = (await reply.json())["id"]
        return job_id


async def edited(session: aiohttp.ClientSession, seed: int) -> None:
    """An edit whose client waits."""
    form = edit_form(picture_png(seed % 3), seed=seed, steps=STEPS)
    async with session.post("/v1/images/edits", data=form) as reply:
        assert reply.status == 200, await reply.text()
        await reply.read()


async def assert_done(session: aiohttp.ClientSession, ids: list[str]) -> None:
    """Each of them has an end, and a picture."""
    for end in await asyncio.gather(*(ended_job(session, job_id, 200) for job_id in ids)):
        assert end["status"] == "done", end


async def busy(session: aiohttp.ClientSession) -> list[str]:
    """Wait until a replica has edits: those that do."""
    async with asyncio.timeout(60):
        while True:
            found = [
                name
                for name in NAMES
                if await metric(session, f'instgenie_replica_edits{{phase="running",replica="{name}"}}')
            ]
            if found:
                return found


async def test_edits_are_spread_and_a_killed_replica_is_replaced(tiny_builtin: Path, tmp_path: Path) -> None:
    async with fleet(tiny_builtin, tmp_path) as (server, session):
        first = await processes(server, session)
        with held_up(first["1"]), held_up(first["2"]):
            ids = [await submitted(session, seed) for seed in range(EDITS)]
            waiting = [asyncio.create_task(edited(session, seed)) for seed in range(EDITS, 2 * EDITS)]
            await in_flight(session, EDITS)
        name = (await busy(session))[0]
        os.kill(first[name], signal.SIGKILL)
        await assert_done(session, ids)
        await asyncio.gather(*waiting)
        await all_ready(session)
        second = await processes(server, session)
        assert [other for other in NAMES if second[other] != first[other]] == [name]
        for replica in NAMES:
            assert await metric(session, f'instgenie_replica_restarts{{replica="{replica}"}}') == (replica == name)
            warmths = ("cold", "host", "dense", "device", "disk")
            lines = await balanced(session)
            assert any(f'{{replica="{replica}",warmth="{warmth}"}}' in lines for warmth in warmths), lines
        server.signal(signal.SIGTERM)
        assert server.end() == 0, server.log()
        for process_id in second.values():
            wait_for_end(process_id)


async def balanced(session: aiohttp.ClientSession) -> str:
    """What the metrics tell of decisions."""
    async with session.get("/metrics") as reply:
        return "\n".join(line for line in (await reply.text()).splitlines() if line.startswith("instgenie_balancer"))


async def test_replicas_are_renewed_under_load(tiny_builtin: Path, tmp_path: Path) -> None:
    """No request fails meanwhile, none is begun twice, and both processes are others afterwards."""
    async with fleet(tiny_builtin, tmp_path) as (server, session):
        first = await processes(server, session)
        is_over = asyncio.Event()
        done = 0

        async def client(number: int) -> None:
            nonlocal done
            while not is_over.is_set():
                if number % 2:
                    await edited(session, number)
                else:
                    await assert_done(session, [await submitted(session, number)])
                done += 1

        clients = [asyncio.create_task(client(number)) for number in range(4)]
        await busy(session)
        server.signal(signal.SIGHUP)
        await asyncio.to_thread(server.until, '"the replicas are renewed"', RENEW_SECONDS)
        is_over.set()
        await asyncio.gather(*clients)
        assert done > len(clients)
        second = await processes(server, session)
        assert all(second[name] != first[name] for name in NAMES)
        assert [await metric(session, f'instgenie_replica_restarts{{replica="{name}"}}') for name in NAMES] == [0, 0]
        assert "lost its replica" not in server.log()
        assert "attempt 1 at job" not in server.log()


async def test_a_start_that_cannot_be_tells_why(tiny_builtin: Path, tmp_path: Path) -> None:
    with ServerProcess(tiny_builtin, tmp_path, "--replicas", "2", "--device", "cuda:7", ready=False) as server:
        assert server.end() == 2
        assert "there is no cuda:7 here" in server.log()


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_kills_under_load(tiny_builtin: Path, tmp_path: Path) -> None:
    """In every round a replica that has edits is killed; all that were accepted are done.

    The one that was killed before may still be starting, so that for a while there is none.
    """
    rng = random.Random(0)
    async with fleet(tiny_builtin, tmp_path) as (server, session):
        for number in range(ROUNDS):
            ids = [await submitted(session, EDITS * number + edit, LONG_STEPS) for edit in range(EDITS)]
            name = rng.choice(await busy(session))
            os.kill(await process_of(server, session, name), signal.SIGKILL)
            await assert_done(session, ids)
        await all_ready(session)
        restarts = [await metric(session, f'instgenie_replica_restarts{{replica="{name}"}}') for name in NAMES]
        assert sum(restarts) == ROUNDS
