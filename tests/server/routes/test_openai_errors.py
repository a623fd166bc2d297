"""Errors of `POST /v1/images/edits` as the `openai` SDK raises them, and how often it asks again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from openai import (
    APIStatusError,
    AsyncOpenAI,
    AuthenticationError,
    BadRequestError,
    InternalServerError,
    PermissionDeniedError,
    RateLimitError,
)

from instgenie.errors import MaskError, ReplicaError
from instgenie_server.access.key_file import KeyFile
from instgenie_server.access.keys import ScryptCost
from instgenie_server.settings import AuthSettings, LimitSettings, Settings
from tests.server.intake.pictures import halves, noise, png
from tests.server.routes.scripted_replica import ScriptedReplica
from tests.server.routes.site import Site, form, mask_png, picture, ready, running_site, until

EDITS = "/v1/images/edits"
USUAL: dict[str, Any] = {"image": png(picture()), "mask": mask_png(), "prompt": "a red ball"}


def client(site: Site, api_key: str = "none") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{site.url}/v1", api_key=api_key)


@pytest_asyncio.fixture
async def openai(site: Site) -> AsyncIterator[AsyncOpenAI]:
    async with client(site) as openai:
        yield openai


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"image": b"no picture"}, "image"),
        ({"image": png(picture())[:-100]}, "image"),
        ({"image": png(noise(4, 400))}, "image"),
        ({"mask": png(halves(32, 64, 0, 255))}, "mask"),
        ({"mask": png(halves(64, 64, 0, 0))}, "mask"),
        ({"n": 11}, "n"),
        ({"size": "1x1"}, "size"),
        ({"background": "transparent"}, "background"),
        ({"model": "gpt-image-1"}, "model"),
        ({"partial_images": 4}, "partial_images"),
        ({"extra_body": {"seed": -1}}, "seed"),
        ({"extra_body": {"lora": {"name": "a"}}}, "lora"),
        ({"extra_body": {"unheard_of": "1"}}, "unheard_of"),
    ],
)
async def test_what_the_request_is_at_fault_for_is_asked_once(
    site: Site, openai: AsyncOpenAI, parameters: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        await openai.images.edit(**(USUAL | parameters))
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")
    assert caught.value.request_id is not None
    assert site.count(EDITS) == 1


@pytest.mark.parametrize("response_format", ["b64_json", "url"])
async def test_what_the_engine_finds_at_fault(
    site: Site, openai: AsyncOpenAI, scripted: ScriptedReplica, response_format: Any
) -> None:
    asked = asyncio.create_task(openai.images.edit(**USUAL, response_format=response_format))
    (await scripted.edits.get()).fail(MaskError("mask", "is bad"))
    with pytest.raises(BadRequestError, match="mask: is bad") as caught:
        await asked
    assert caught.value.param == "mask"
    assert site.count(EDITS) == 1


async def test_failures_of_ours_are_not_repeated_by_the_client(
    site: Site, openai: AsyncOpenAI, scripted: ScriptedReplica
) -> None:
    asked = asyncio.create_task(openai.images.edit(**USUAL))
    (await scripted.edits.get()).fail(ReplicaError("out of memory"))
    with pytest.raises(InternalServerError, match="out of memory") as caught:
        await asked
    assert (caught.value.status_code, caught.value.code) == (500, "edit_failed")
    assert site.count(EDITS) == 1


async def test_a_bug_tells_nothing_of_our_insides(site: Site, scripted: ScriptedReplica) -> None:
    asked = asyncio.create_task(site.error("POST", EDITS, 500, data=form()))
    (await scripted.edits.get()).fail(KeyError("a secret"))
    assert "secret" not in str(await asked)


@pytest.mark.parametrize("response_format", ["b64_json", "url"])
async def test_the_deadline_is_for_all_results_together(
    site: Site, openai: AsyncOpenAI, scripted: ScriptedReplica, response_format: Any
) -> None:
    settings: dict[str, Any] = USUAL | {"n": 2, "response_format": response_format}
    asked = asyncio.create_task(openai.images.edit(**settings, extra_body={"deadline_ms": 2000}))
    started = time.monotonic()
    first = await scripted.edits.get()
    asyncio.get_running_loop().call_later(1.5, first.succeed)
    second = await scripted.edits.get()
    with pytest.raises(APIStatusError, match="no result after 2 s") as caught:
        await asked
    assert time.monotonic() - started < 3.4  # a deadline for each, one after the other, would be 3.5
    assert (caught.value.status_code, caught.value.code, caught.value.param) == (
        504,
        "deadline_exceeded",
        None,
    )
    await second.stopped.wait()
    assert site.count(EDITS) == 1


async def test_overload_is_a_429_until_there_is_room(tmp_path: Path) -> None:
    """1 s waits and 2 s are the limit: another edit of 2.2 s has to wait for 1.2 s of them."""
    replica = ScriptedReplica(seconds=2.2)
    settings = Settings(data_dir=tmp_path, limits=LimitSettings(queue_seconds=3.2))
    async with running_site(settings, ready(replica)) as site, client(site) as openai:
        running = asyncio.create_task(openai.images.edit(**USUAL))
        first = await replica.edits.get()
        started = time.monotonic()
        with pytest.raises(RateLimitError) as caught:
            await openai.images.edit(**USUAL)
        assert time.monotonic() - started >= 2 * 1.2  # the SDK's own pauses would be 1.5 s at most
        assert site.count(EDITS) == 3
        assert caught.value.response.headers["retry-after"] == "2"
        assert caught.value.response.headers["retry-after-ms"] == "1200"
        assert (caught.value.code, caught.value.type) == ("overloaded", "rate_limit_error")
        assert replica.edits.empty()

        waiting = asyncio.create_task(openai.images.edit(**USUAL))
        await until(lambda: site.count(EDITS) == 4)
        first.succeed()
        await running
        (await replica.edits.get()).succeed()
        assert (await waiting).data
        statuses = [status for _, path, status in site.answered if path == EDITS]
        assert statuses == [429] * (len(statuses) - 2) + [200] * 2  # it may have asked again before there was room


async def test_all_results_of_a_request_count_as_waiting(tmp_path: Path) -> None:
    replica = ScriptedReplica(seconds=1)
    settings = Settings(data_dir=tmp_path, limits=LimitSettings(queue_seconds=3))
    async with running_site(settings, ready(replica)) as site:
        running = asyncio.create_task(site.ask("POST", EDITS, data=form(n=3)))
        first, second, _ = [await replica.edits.get() for _ in range(3)]
        assert site.engine.edits.waiting_seconds() == 3
        await site.error("POST", EDITS, 429, data=form())
        await site.error("POST", "/v1/edits", 429, data=form())
        assert (await site.get("/v1/edits"))["data"] == []
        first.succeed()
        await until(lambda: site.engine.edits.waiting_seconds() < 3)
        assert site.engine.edits.waiting_seconds() == 2
        job = await site.ask("POST", "/v1/edits", 202, data=form())
        assert site.engine.edits.waiting_seconds() == 3
        await site.error("POST", EDITS, 429, data=form())
        replica.let_go()
        second.succeed()
        assert len((await running)["data"]) == 3
        await site.ask("DELETE", f"/v1/edits/{job['id']}")
        await until(lambda: site.engine.edits.waiting_seconds() == 0)


async def test_an_edit_that_exceeds_the_limit_alone_runs_when_nothing_waits(tmp_path: Path) -> None:
    replica = ScriptedReplica(seconds=100, at_once=True)
    settings = Settings(data_dir=tmp_path, limits=LimitSettings(queue_seconds=1))
    async with running_site(settings, ready(replica)) as site:
        assert (await site.ask("POST", EDITS, data=form()))["data"]


async def test_keys_and_rates(tmp_path: Path) -> None:
    key, _ = KeyFile(tmp_path).add("ann", datetime.now(UTC), ScryptCost(n=2, r=1, p=1))
    settings = Settings(
        data_dir=tmp_path, auth=AuthSettings(required=True), limits=LimitSettings(requests_per_minute=2)
    )
    async with running_site(settings, ready(ScriptedReplica(at_once=True))) as site:
        for wrong in ("none", key[:-1] + "x"):
            async with client(site, wrong) as openai:
                before = site.count(EDITS)
                with pytest.raises(AuthenticationError) as caught:
                    await openai.images.edit(**USUAL)
                assert caught.value.code == "invalid_api_key"
                assert site.count(EDITS) == before + 1
        async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key=key, max_retries=0) as openai:
            for _ in range(2):
                assert (await openai.images.edit(**USUAL)).data
            with pytest.raises(RateLimitError) as limited:
                await openai.images.edit(**USUAL)
            assert limited.value.code == "rate_limit_exceeded"
            assert 0 < int(limited.value.response.headers["retry-after"]) <= 60


async def test_pages_of_other_sites_are_refused(site: Site) -> None:
    async with AsyncOpenAI(
        base_url=f"{site.url}/v1", api_key="none", default_headers={"Origin": "https://elsewhere.example"}
    ) as openai:
        with pytest.raises(PermissionDeniedError):
            await openai.images.edit(**USUAL)
    assert site.count(EDITS) == 1


async def test_leaving_cancels_the_edit(site: Site, scripted: ScriptedReplica) -> None:
    asked = asyncio.create_task(site.ask("POST", EDITS, data=form(n=2)))
    edits = [await scripted.edits.get() for _ in range(2)]
    asked.cancel()
    async with asyncio.timeout(30):
        for edit in edits:
            await edit.stopped.wait()
    assert all(edit.cancelled for edit in edits)
    await until(lambda: site.engine.edits.waiting_seconds() == 0)


async def test_leaving_an_edit_by_address_cancels_its_jobs(site: Site, scripted: ScriptedReplica) -> None:
    asked = asyncio.create_task(site.ask("POST", EDITS, data=form(n=2, response_format="url")))
    edit = await scripted.edits.get()
    asked.cancel()
    async with asyncio.timeout(30):
        await edit.stopped.wait()
        while {job["status"] for job in (await site.get("/v1/edits"))["data"]} != {"cancelled"}:
            pass
    assert scripted.edits.empty()


async def test_a_job_that_somebody_cancels_while_its_caller_waits(site: Site, scripted: ScriptedReplica) -> None:
    asked = asyncio.create_task(site.error("POST", EDITS, 409, data=form(response_format="url")))
    await scripted.edits.get()
    (job,) = (await site.get("/v1/edits"))["data"]
    await site.ask("DELETE", f"/v1/edits/{job['id']}")
    assert (await asked)["code"] == "cancelled"
