"""A server that starts, answers probes, and stops without cutting anybody off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from instgenie import __version__
from instgenie.errors import CheckpointError, InvalidInputError, ReplicaError, ReplicaLostError
from instgenie.orders import Replica
from instgenie_server.app_keys import IN_FLIGHT
from instgenie_server.routes.keys import ENGINE
from instgenie_server.settings import LimitSettings, Settings
from tests.server.routes.scripted_replica import STEPS, ScriptedReplica
from tests.server.routes.site import Site, form, ready, running_site, until

EDITS = "/v1/edits"


@dataclass(slots=True)
class SlowStart:
    """A replica that is there once the test says so."""

    replica: ScriptedReplica = field(default_factory=lambda: ScriptedReplica(at_once=True))
    may_open: asyncio.Event = field(default_factory=asyncio.Event)
    is_closed: bool = False
    error: Exception | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Replica]:
        await self.may_open.wait()
        if self.error is not None:
            raise self.error
        yield self.replica
        self.is_closed = True


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


async def test_while_it_starts(settings: Settings) -> None:
    start = SlowStart()
    async with running_site(settings, start.open, opened=False) as site:
        assert await site.get("/healthz") == {"status": "ok", "version": __version__}
        assert await site.get("/readyz", 503) == {"status": "starting", "version": __version__}
        await site.get("/openapi.json")
        for method, path in (
            ("GET", "/v1/models"),
            ("GET", EDITS),
            ("GET", f"{EDITS}/a"),
            ("GET", "/v1/templates"),
            ("POST", EDITS),
            ("POST", "/v1/images/edits"),
            ("POST", "/v1/templates"),
            ("POST", "/sdapi/v1/img2img"),
        ):
            async with site.session.request(method, path, data=form() if method == "POST" else None) as response:
                assert response.status == 503
                assert int(response.headers["retry-after"]) > 0
                assert (await response.json())["error"]["code"] == "unavailable"
        async with site.session.get("/metrics") as response:
            assert response.status == 200
        start.may_open.set()
        await site.app[ENGINE].opened()
        assert (await site.get("/readyz"))["status"] == "ok"
        assert (await site.ask("POST", "/v1/images/edits", data=form()))["data"]
    assert start.is_closed


async def test_what_keeps_it_from_starting_is_told(settings: Settings) -> None:
    start = SlowStart(error=CheckpointError("no model"))
    async with running_site(settings, start.open, opened=False) as site:
        start.may_open.set()
        with pytest.raises(CheckpointError, match="no model"):
            await site.app[ENGINE].opened()
        await site.get("/readyz", 503)
        await site.error("GET", "/v1/models", 503)


async def test_stopped_while_it_starts(settings: Settings) -> None:
    """Loading a model cannot be broken off; what was loaded is closed, and never said to be ready."""
    start = SlowStart()
    async with running_site(settings, start.open, opened=False) as site:
        site.app[IN_FLIGHT].drain()
        await site.app[ENGINE].drain()
        async with site.session.get("/metrics") as response:
            assert response.status == 200
        start.may_open.set()
        await site.app[ENGINE].opened()
        assert (await site.get("/readyz", 503))["status"] == "draining"
    assert start.is_closed


async def test_while_it_stops(settings: Settings) -> None:
    async with running_site(settings, ready(ScriptedReplica())) as site:
        site.app[IN_FLIGHT].drain()
        await site.app[ENGINE].drain()
        assert (await site.get("/healthz"))["status"] == "ok"
        assert (await site.get("/readyz", 503))["status"] == "draining"
        for method, path in (("GET", "/v1/models"), ("POST", EDITS), ("POST", "/v1/images/edits")):
            async with site.session.request(method, path, data=form() if method == "POST" else None) as response:
                assert response.status == 503
                assert int(response.headers["retry-after"]) > 0
        async with site.session.get("/metrics") as response:
            assert response.status == 200


async def test_what_runs_comes_to_its_end(settings: Settings) -> None:
    replica = ScriptedReplica()
    async with running_site(settings, ready(replica)) as site:
        job = await site.ask("POST", EDITS, 202, data=form())
        job_edit = await replica.edits.get()
        at_once = asyncio.create_task(site.ask("POST", "/v1/images/edits", data=form()))
        edit = await replica.edits.get()
        watching = asyncio.create_task(read(site, f"{EDITS}/{job['id']}/events"))
        await until(lambda: site.count(f"{EDITS}/{job['id']}/events") == 1)
        stopping = asyncio.create_task(site.runner.cleanup())
        await until(lambda: site.app[IN_FLIGHT].is_draining)
        job_edit.succeed()
        assert "event: done" in await watching
        edit.succeed()
        assert (await at_once)["data"]
        await stopping


async def read(site: Site, path: str) -> str:
    async with site.session.get(path) as response:
        return await response.text()


async def test_who_waits_for_an_edit_that_will_not_run_is_told(settings: Settings) -> None:
    """Edits by address are jobs: one that waits when the server stops is withdrawn."""
    settings = settings.model_copy(update={"limits": LimitSettings(running_jobs=1)})
    replica = ScriptedReplica()
    async with running_site(settings, ready(replica)) as site:
        await site.ask("POST", EDITS, 202, data=form())
        running = await replica.edits.get()
        asked = asyncio.create_task(site.error("POST", "/v1/images/edits", 503, data=form(response_format="url")))
        await until(lambda: site.engine.jobs.queued_seconds() == 2)
        stopping = asyncio.create_task(site.runner.cleanup())
        await until(lambda: site.app[IN_FLIGHT].is_draining)
        running.succeed()
        assert (await asked)["code"] == "unavailable"
        await stopping
    async with running_site(settings, ready(ScriptedReplica(at_once=True))) as site:
        statuses = [job["status"] for job in (await site.get(EDITS))["data"]]
        assert statuses == ["cancelled", "done"]


async def test_metrics(settings: Settings) -> None:
    replica = ScriptedReplica(seconds=3)
    async with running_site(settings, ready(replica)) as site:
        asked = asyncio.create_task(site.ask("POST", "/v1/images/edits", data=form()))
        edit = await replica.edits.get()
        assert "instgenie_queue_seconds 3.0" in await metrics(site)
        edit.succeed()
        await asked
        for error in (InvalidInputError("mask", "is bad"), ReplicaError("broken")):
            asked = asyncio.create_task(site.session.post("/v1/images/edits", data=form()))
            (await replica.edits.get()).fail(error)
            (await asked).close()
        asked = asyncio.create_task(site.ask("POST", "/v1/images/edits", data=form()))
        edit = await replica.edits.get()
        asked.cancel()
        await edit.stopped.wait()
        replica.at_once = True
        job = await site.ask("POST", EDITS, 202, data=form())
        await read(site, f"{EDITS}/{job['id']}/events")
        await site.get("/v1/models/of-nobody", 404)
        lines = set(await metrics(site))
    expected = {
        'instgenie_edits_total{cache="hit",outcome="done",tier="host"} 2.0',
        'instgenie_edits_total{cache="none",outcome="failed",tier="none"} 1.0',
        'instgenie_edits_total{cache="none",outcome="invalid",tier="none"} 1.0',
        'instgenie_edits_total{cache="none",outcome="cancelled",tier="none"} 1.0',
        'instgenie_replica_up{replica="1"} 1.0',
        'instgenie_http_requests_total{method="POST",route="/v1/images/edits",status="200"} 1.0',
        'instgenie_http_requests_total{method="POST",route="/v1/images/edits",status="400"} 1.0',
        'instgenie_http_requests_total{method="POST",route="/v1/images/edits",status="499"} 1.0',
        'instgenie_http_requests_total{method="POST",route="/v1/images/edits",status="500"} 1.0',
        'instgenie_http_requests_total{method="GET",route="/v1/models/{id}",status="404"} 1.0',
        'instgenie_jobs{state="done"} 1.0',
        'instgenie_phase_seconds_count{phase="denoise"} 2.0',
        f"instgenie_step_seconds_count {STEPS}.0",
        "instgenie_upload_bytes_count 5.0",
        "instgenie_queue_seconds 0.0",
        "instgenie_http_in_flight 0.0",
    }
    assert expected <= lines, expected - lines


@pytest.mark.parametrize(("path", "status"), [("/v1/images/edits", 200), (EDITS, 202)])
async def test_an_attempt_that_is_lost_is_no_failed_edit(settings: Settings, path: str, status: int) -> None:
    replica = ScriptedReplica()
    async with running_site(settings, ready(replica)) as site:
        for losses in (2, 3):  # at the third one the edit fails
            asked = asyncio.create_task(site.session.post(path, data=form()))
            for _ in range(losses):
                (await replica.edits.get()).fail(ReplicaLostError("it was killed"))
            if losses < 3:
                (await replica.edits.get()).succeed()
            response = await asked
            assert response.status == (status if losses < 3 or path == EDITS else 500)
            if path == EDITS:
                await read(site, f"{EDITS}/{(await response.json())['id']}/events")  # to its end
            response.close()
        lines = set(await metrics(site))
    expected = {
        "instgenie_edit_attempts_lost_total 5.0",
        'instgenie_edits_total{cache="hit",outcome="done",tier="host"} 1.0',
        'instgenie_edits_total{cache="none",outcome="failed",tier="none"} 1.0',
    }
    assert expected <= lines, expected - lines


async def metrics(site: Site) -> list[str]:
    return (await read(site, "/metrics")).splitlines()
