"""`instgenie serve --engine ray` on a cluster of two machines, one of which is lost under load."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import aiohttp
import pytest

from tests.server.processes.requests import edit_form, ended_job, metric, picture_png
from tests.server.processes.server_process import ServerProcess
from tests.server.processes.test_cache_service import wait_for_end
from tests.server.ray_engine.ray_cluster import RayCluster, ray_cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is an extra: scripts/install --ray"),
]

PLACE = r'"machine": "(\w+)", .*"event": "the replica has its place"'
READY = r'"process_id": (\d+), "event": "the (?:replica|cache service) is ready"'
JOBS = 12
STEPS = 400  # long enough that the first ones still run when the last one is submitted, and to be met then


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as made:
        made.add_machine()
        made.add_machine()
        yield made


async def of_both(session: aiohttp.ClientSession, name: str, label: str = "") -> list[float]:
    """A metric of each replica."""
    return [await metric(session, f'instgenie_replica_{name}{{{label}replica="{replica}"}}') for replica in "12"]


async def up(session: aiohttp.ClientSession, count: int) -> None:
    """Wait until so many replicas take edits."""
    async with asyncio.timeout(150):
        while sum(await of_both(session, "up")) != count:
            pass


async def all_done(session: aiohttp.ClientSession, jobs: list[str]) -> bool:
    """Whether they are, once they have their ends."""
    ends = await asyncio.gather(*(ended_job(session, job, 180) for job in jobs))
    return [end["status"] for end in ends] == ["done"] * len(jobs)


async def submitted(session: aiohttp.ClientSession, first_picture: int, steps: int = STEPS) -> list[str]:
    """Ids of jobs, each with a picture of its own, so that no replica has an advantage."""
    jobs = []
    for picture in range(first_picture, first_picture + JOBS):
        async with session.post("/v1/edits", data=edit_form(picture_png(picture), steps=steps)) as reply:
            assert reply.status == 202, await reply.text()
            jobs.append((await reply.json())["id"])
    return jobs


async def begun_on_both(session: aiohttp.ClientSession, first_picture: int) -> list[str]:
    """Ids of jobs, of which each replica has some in its steps."""
    jobs = await submitted(session, first_picture)
    async with asyncio.timeout(60):
        while not all(await of_both(session, "edits", 'phase="running",')):
            pass
    return jobs


async def test_a_machine_is_lost_under_load_and_another_one_joins(
    cluster: RayCluster, tiny_builtin: Path, tmp_path: Path
) -> None:
    options = ("--engine", "ray", "--set", f"engine.ray_address={cluster.address}")
    with ServerProcess(tiny_builtin, tmp_path, *options, own_cache=True) as server:
        async with aiohttp.ClientSession(server.url) as session:
            await up(session, 2)
            first = set(re.findall(PLACE, server.log()))
            assert len(first) == 2, server.log()  # one of each machine, though nobody said how many

            jobs = await begun_on_both(session, 0)
            await asyncio.to_thread(cluster.kill_machine)
            assert await all_done(session, jobs), server.log()
            await up(session, 1)

            await asyncio.to_thread(cluster.add_machine)
            await up(session, 2)
            assert len(set(re.findall(PLACE, server.log())) - first) == 1, server.log()
            assert await all_done(session, await begun_on_both(session, JOBS)), server.log()

        server.signal(signal.SIGTERM)
        assert server.end() == 0, server.log()
        for process_id in re.findall(READY, server.log()):
            wait_for_end(int(process_id))


async def test_a_server_that_is_killed_leaves_no_processes(
    cluster: RayCluster, tiny_builtin: Path, tmp_path: Path
) -> None:
    options = ("--engine", "ray", "--replicas", "1", "--set", f"engine.ray_address={cluster.address}")
    with ServerProcess(tiny_builtin, tmp_path, *options, own_cache=True) as server:
        async with aiohttp.ClientSession(server.url) as session:
            await submitted(session, 0, steps=1000)
        processes = [int(number) for number in re.findall(READY, server.log())]
        server.kill()
    assert len(processes) == 1, server.log()
    for process_id in processes:
        wait_for_end(process_id)
