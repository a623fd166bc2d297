"""A server whose replica goes and comes back: what clients see meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from instgenie.orders import Replica
from instgenie_server.fleet.fleet_replica import FleetReplica, FleetSettings
from instgenie_server.fleet.member import HERE, Member
from instgenie_server.processes.kept_process import Life
from instgenie_server.processes.restarts import Restarts
from instgenie_server.replica_process.supervised_replica import SupervisedReplica
from instgenie_server.settings import EngineSettings, Settings
from tests.server.intake.pictures import png
from tests.server.replica_process.fake_host import FakeHost, FakeLink
from tests.server.routes.site import Site, form, picture, running_site, until

EDITS = "/v1/images/edits"
JOBS = "/v1/edits"


class Served:
    """A server and the host of its replica."""

    def __init__(self, site: Site, host: FakeHost, life: Life) -> None:
        self.site, self.host, self.life = site, host, life

    @property
    def link(self) -> FakeLink:
        """The newest replica."""
        return self.host.links[-1]

    async def kill(self) -> None:
        """End the replica, and wait until the server knows."""
        self.host.end(self.life)
        await until(lambda: not self.site.engine.presence.is_there)

    async def restart(self) -> None:
        """Have another one."""
        self.life = self.host.run()
        await until(lambda: self.site.engine.presence.is_there)


@asynccontextmanager
async def supervised_site(data_dir: Path, return_seconds: float = 60) -> AsyncIterator[Served]:
    host = FakeHost()
    life = host.run()

    @asynccontextmanager
    async def opened() -> AsyncIterator[Replica]:
        pauses = Restarts(lambda: 0.0, first_seconds=0.001)
        async with SupervisedReplica(host, host.connect, pauses, answer_seconds=0.01) as replica:
            await replica.start()
            async with FleetReplica([Member("1", HERE, replica)], FleetSettings(answer_seconds=0.01)) as fleet:
                yield fleet

    settings = Settings(data_dir=data_dir, engine=EngineSettings(return_seconds=return_seconds))
    async with running_site(settings, opened) as site:
        yield Served(site, host, life)
        host.links[-1].let_go()


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with supervised_site(tmp_path) as served:
        yield served


async def test_readiness_and_metrics(served: Served) -> None:
    reply = await served.site.get("/readyz")
    assert (reply["status"], reply["replicas"]) == ("ok", {"ready": 1, "all": 1})
    await served.kill()
    reply = await served.site.get("/readyz", 503)
    assert (reply["status"], reply["replicas"]) == ("starting", {"ready": 0, "all": 1})
    assert 'instgenie_replica_up{replica="1"} 0.0' in await metrics(served.site)
    assert (await served.site.get("/v1/models"))["data"][0]["id"] == "scripted"
    await served.restart()
    assert (await served.site.get("/readyz"))["status"] == "ok"
    expected = {'instgenie_replica_up{replica="1"} 1.0', 'instgenie_replica_restarts{replica="1"} 1.0'}
    assert expected <= set(await metrics(served.site))


async def metrics(site: Site) -> list[str]:
    async with site.session.get("/metrics") as response:
        return (await response.text()).splitlines()


async def test_jobs_wait_in_the_queue_and_go_on(served: Served) -> None:
    site = served.site
    ids = [(await site.ask("POST", JOBS, 202, data=form(seed=seed)))["id"] for seed in range(8)]
    for _ in ids:
        await served.link.edits.get()
    await served.kill()
    await until(lambda: site.engine.jobs.position(ids[-1]) == 8)
    late = (await site.ask("POST", JOBS, 202, data=form(seed=8)))["id"]
    assert [(await site.get(f"{JOBS}/{job_id}"))["status"] for job_id in (*ids, late)] == ["queued"] * 9
    await served.restart()
    for _ in range(9):
        (await served.link.edits.get()).succeed()
    for job_id in (*ids, late):
        assert await ended(site, job_id) == "done"


async def ended(site: Site, job_id: str) -> str:
    async with site.session.get(f"{JOBS}/{job_id}/events") as response:
        await response.read()
    status: str = (await site.get(f"{JOBS}/{job_id}"))["status"]
    return status


async def test_who_waits_gets_the_picture_of_the_next_one(served: Served) -> None:
    asked = asyncio.create_task(served.site.ask("POST", EDITS, data=form(n=2)))
    for _ in range(2):
        await served.link.edits.get()
    await served.kill()
    await served.restart()
    for _ in range(2):
        (await served.link.edits.get()).succeed()
    assert len((await asked)["data"]) == 2


async def test_a_replica_that_stays_away(tmp_path: Path) -> None:
    async with supervised_site(tmp_path, return_seconds=0.01) as served:
        await served.kill()
        assert (await served.site.error("POST", EDITS, 503, data=form()))["code"] == "unavailable"
        assert (await served.site.get("/v1/templates"))["data"] == []
        await served.restart()


def template_form(number: int) -> aiohttp.FormData:
    """A picture to record."""
    data = aiohttp.FormData()
    data.add_field("image", png(picture(number)), filename="image.png")
    return data


async def test_a_template_is_recorded_by_the_next_one(served: Served) -> None:
    site = served.site
    template = await site.ask("POST", "/v1/templates", 202, data=template_form(0))
    warm = await served.link.warms.get()
    warm.window(1, 2, "a" * 32)
    other = await site.ask("POST", "/v1/templates", 202, data=template_form(1))
    await served.kill()
    assert (await site.error("GET", f"/v1/templates/{template['id']}", 503))["code"] == "unavailable"
    await served.restart()
    again = await served.link.warms.get()
    assert again.order.id == template["id"]
    for number, key in ((1, "a"), (2, "b")):
        again.window(number, 2, key * 32)
    again.succeed()
    following = await served.link.warms.get()
    assert following.order.id == other["id"]
    assert (await site.get(f"/v1/templates/{template['id']}"))["status"] == "warm"


async def test_a_template_that_loses_every_replica(served: Served) -> None:
    site = served.site
    template = await site.ask("POST", "/v1/templates", 202, data=template_form(0))
    for _ in range(3):
        await served.link.warms.get()
        await served.kill()
        await served.restart()
    async with asyncio.timeout(30):
        while (reply := await site.get(f"/v1/templates/{template['id']}"))["status"] != "failed":
            pass
    assert "replica" in reply["error"]["message"]


@pytest.mark.parametrize("when", ["before", "while it is away"])
async def test_stopping_does_not_wait_for_a_replica(tmp_path: Path, when: str) -> None:
    host = FakeHost()
    if when != "before":
        life = host.run()

    @asynccontextmanager
    async def opened() -> AsyncIterator[Replica]:
        async with SupervisedReplica(host, host.connect) as replica:
            await replica.start()
            async with FleetReplica([Member("1", HERE, replica)]) as fleet:
                yield fleet

    async with running_site(Settings(data_dir=tmp_path), opened, opened=when != "before") as site:
        if when != "before":
            host.end(life)
            await until(lambda: not site.engine.presence.is_there)
        async with asyncio.timeout(10):
            await site.runner.cleanup()
