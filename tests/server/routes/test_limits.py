"""What a server takes on: seconds of work, memory for pictures, deadlines, priorities."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image

from instgenie.orders import EditOrder, EditOutcome, StepReport
from instgenie.replica.local_replica import LocalReplica
from instgenie_server.access.key_file import KeyFile
from instgenie_server.access.keys import ScryptCost
from instgenie_server.routes.keys import PIXELS
from instgenie_server.settings import AuthSettings, LimitSettings, Settings
from tests.server.intake.pictures import png
from tests.server.routes.scripted_replica import ScriptedReplica
from tests.server.routes.site import SIDE, Site, form, mask_png, picture, ready, running_site, until

OPENAI, EDITS = "/v1/images/edits", "/v1/edits"
# The files, five bytes for a pixel of the picture, one for one of the mask.
EDIT_BYTES = len(png(picture())) + len(mask_png()) + 6 * SIDE * SIDE


async def test_no_more_jobs_are_accepted_at_once_than_there_is_room_for(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, limits=LimitSettings(queue_seconds=2))
    replica = ScriptedReplica(seconds=1)
    async with running_site(settings, ready(replica)) as site:

        async def submit() -> int:
            async with site.session.post(EDITS, data=form()) as response:
                return response.status

        statuses = await asyncio.gather(*(submit() for _ in range(20)))
        assert sorted(statuses) == [202] * 2 + [429] * 18
        replica.let_go()


async def test_a_known_idempotency_key_needs_no_room(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, limits=LimitSettings(queue_seconds=1))
    replica = ScriptedReplica(seconds=1)
    async with running_site(settings, ready(replica)) as site:
        first = await site.ask("POST", EDITS, 202, data=form(), headers={"Idempotency-Key": "a"})
        again = await site.ask("POST", EDITS, 202, data=form(), headers={"Idempotency-Key": "a"})
        assert again["id"] == first["id"]
        await site.error("POST", EDITS, 429, data=form(), headers={"Idempotency-Key": "b"})
        replica.let_go()


@pytest.fixture
def small_budget(tmp_path: Path) -> Settings:
    """Room for the pictures of two edits."""
    return Settings(data_dir=tmp_path, limits=LimitSettings(pixel_bytes=2 * EDIT_BYTES))


@pytest.mark.parametrize("path", [OPENAI, "/sdapi/v1/img2img"])
async def test_pictures_that_wait_hold_bounded_memory(small_budget: Settings, path: str) -> None:
    replica = ScriptedReplica(seconds=0)
    async with running_site(small_budget, ready(replica)) as site:
        running = [asyncio.create_task(site.ask("POST", OPENAI, data=form())) for _ in range(2)]
        edits = [await replica.edits.get() for _ in running]
        assert site.app[PIXELS].held_bytes == 2 * EDIT_BYTES
        asked: dict[str, Any] = {"data": form()} if path == OPENAI else {"json": img2img()}
        error = await site.error("POST", path, 429, **asked)
        assert error["code"] == "pictures_busy"
        edits[0].succeed()
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        replica.at_once = True
        asked = {"data": form()} if path == OPENAI else {"json": img2img()}
        await site.ask("POST", path, **asked)
        edits[1].succeed()
        await asyncio.gather(*running)
        await until(lambda: site.app[PIXELS].held_bytes == 0)


def img2img() -> dict[str, Any]:
    image, mask = (png(Image.new("RGB", (SIDE, SIDE), color)) for color in ("red", "white"))
    return {
        "prompt": "a",
        "init_images": [base64.b64encode(image).decode()],
        "mask": base64.b64encode(mask).decode(),
    }


async def test_results_by_url_count_once(tmp_path: Path) -> None:
    """First as edits that are being accepted, then as jobs."""
    replica = ScriptedReplica(seconds=1)
    async with running_site(Settings(data_dir=tmp_path), ready(replica)) as site:
        asked = asyncio.create_task(site.ask("POST", OPENAI, data=form(n=3, response_format="url")))
        edit = await replica.edits.get()
        while len((await site.get(EDITS))["data"]) < 3:
            pass
        await until(lambda: site.engine.edits.waiting_seconds() == 3)
        edit.succeed()
        replica.let_go()
        await asked


async def test_a_job_of_low_priority_does_not_hold_up_the_others(tmp_path: Path) -> None:
    """Behind edits at once it would keep the jobs' turn for as long as those come."""
    replica = ScriptedReplica(seconds=0)
    async with running_site(Settings(data_dir=tmp_path), ready(replica)) as site:
        for priority, expected in ((-100, 0), (3, 3)):
            await site.ask("POST", EDITS, 202, data=form(priority=priority))
            edit = await replica.edits.get()
            assert edit.order.priority == expected
            edit.succeed()


async def test_a_client_that_leaves_gives_its_memory_back(small_budget: Settings) -> None:
    replica = ScriptedReplica()
    async with running_site(small_budget, ready(replica)) as site:
        asked = asyncio.create_task(site.ask("POST", OPENAI, data=form()))
        edit = await replica.edits.get()
        asked.cancel()
        await edit.stopped.wait()
        await until(lambda: site.app[PIXELS].held_bytes == 0)


async def test_jobs_hold_none_while_they_wait(small_budget: Settings) -> None:
    replica = ScriptedReplica(seconds=0)
    async with running_site(small_budget, ready(replica)) as site:
        for _ in range(5):
            await site.ask("POST", EDITS, 202, data=form())
        await until(lambda: site.app[PIXELS].held_bytes == 0)
        replica.let_go()


@pytest.mark.parametrize("fields", [{}, {"stream": "true"}, {"response_format": "url"}])
async def test_a_deadline_beyond_the_limit_is_refused_where_the_client_waits(tmp_path: Path, fields: Any) -> None:
    settings = Settings(data_dir=tmp_path, limits=LimitSettings(deadline_seconds=60))
    async with running_site(settings, ready(ScriptedReplica(at_once=True))) as site:
        error = await site.error("POST", OPENAI, 400, data=form(deadline_ms=60_001, **fields))
        assert error["param"] == "deadline_ms"
        assert "60000 ms" in error["message"]
        job = await site.ask("POST", EDITS, 202, data=form(deadline_ms=60_001))  # which need not wait
        await done(site, job["id"])
        (model,) = (await site.get("/v1/models"))["data"]
        assert model["limits"]["deadline_ms"] == 60_000


async def test_a_job_outlives_any_time_that_the_server_is_down(tmp_path: Path) -> None:
    """Without a deadline of its own it has none: an accepted edit is carried through."""
    async with running_site(Settings(data_dir=tmp_path), ready(ScriptedReplica(at_once=True))) as site:
        for deadline_ms in (None, 86_400_000):
            accepted = await site.ask("POST", EDITS, 202, data=form(deadline_ms=deadline_ms))
            job = await site.engine.jobs.find(accepted["id"])
            assert job is not None
            assert (job.deadline_at is None) is (deadline_ms is None)


async def test_priority_reaches_the_replica(tmp_path: Path) -> None:
    replica = ScriptedReplica(seconds=0)
    async with running_site(Settings(data_dir=tmp_path), ready(replica)) as site:
        asked = asyncio.create_task(site.ask("POST", OPENAI, data=form(priority=7)))
        edit = await replica.edits.get()
        assert edit.order.priority == 7
        replica.let_go()
        await asked


async def done(site: Site, job_id: str) -> None:
    async with site.session.get(f"{EDITS}/{job_id}/events") as events:
        await events.read()
    assert (await site.get(f"{EDITS}/{job_id}"))["status"] == "done"


Tenants = tuple[Site, dict[str, str], dict[str, str]]


@pytest_asyncio.fixture
async def tenants(tmp_path: Path, tiny_replica: LocalReplica) -> AsyncIterator[Tenants]:
    """A server of the tiny model, and the headers of two tenants."""
    keys = [KeyFile(tmp_path).add(name, datetime.now(UTC), ScryptCost(n=2, r=1, p=1))[0] for name in ("ann", "bob")]
    ann, bob = ({"Authorization": f"Bearer {key}"} for key in keys)
    async with running_site(Settings(data_dir=tmp_path, auth=AuthSettings(required=True)), ready(tiny_replica)) as site:
        yield site, ann, bob


async def test_records_of_a_tenant_serve_nobody_else(tenants: Tenants) -> None:
    site, ann, bob = tenants
    fields: dict[str, Any] = {"template_seed": 4711}
    await site.ask("POST", OPENAI, data=form(**fields), headers=ann)
    job = await site.ask("POST", EDITS, 202, data=form(cache="only", **fields), headers=ann)
    async with site.session.get(f"{EDITS}/{job['id']}/events", headers=ann) as events:
        await events.read()
    assert (await site.get(f"{EDITS}/{job['id']}", headers=ann))["cache"] == "hit"
    await site.error("POST", OPENAI, 404, data=form(cache="only", **fields), headers=bob)
    await site.ask("POST", OPENAI, data=form(**fields), headers=bob)


class LargeReplica(ScriptedReplica):
    """Results of 20 MB."""

    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        return replace(await super().edit(order, report), image=bytes(20_000_000))


async def test_a_client_that_does_not_read_is_dropped(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, limits=LimitSettings(unread_seconds=0.2))
    async with running_site(settings, ready(LargeReplica(at_once=True))) as site:
        await site.session.close()
        body = json.dumps(img2img()).encode()
        head = f"POST /sdapi/v1/img2img HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(site.runner.addresses[0][:2]) as client:
            await asyncio.to_thread(client.sendall, head.encode() + body)
            await until(lambda: site.answered != [])
            assert site.runner.server is not None
            await until(lambda: site.runner.server is not None and not site.runner.server.connections)


async def test_a_result_is_sent_from_its_file(tmp_path: Path) -> None:
    async with running_site(Settings(data_dir=tmp_path), ready(LargeReplica(at_once=True))) as site:
        job = await site.ask("POST", EDITS, 202, data=form())
        await done(site, job["id"])
        url = f"{EDITS}/{job['id']}/image"
        async with site.session.get(url, headers={"Range": "bytes=5-14"}) as response:
            assert (response.status, await response.read()) == (206, bytes(10))
            etag = response.headers["ETag"]
        async with site.session.get(url, headers={"If-None-Match": etag}) as response:
            assert response.status == 304
