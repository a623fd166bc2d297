"""Streamed edits through the `openai` SDK."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from openai import APIError, AsyncOpenAI, BadRequestError, InternalServerError, NotFoundError
from openai.types import ImageEditCompletedEvent, ImageEditPartialImageEvent

from instgenie.errors import MaskError, ReplicaError, TemplateNotCachedError
from tests.server.intake.pictures import assert_alike, png
from tests.server.routes.scripted_replica import ScriptedReplica, outcome_of
from tests.server.routes.site import Site, form, mask_png, picture, sse_events

EDITS = "/v1/images/edits"
USUAL: dict[str, Any] = {"image": png(picture()), "mask": mask_png(), "prompt": "a red ball"}


@pytest_asyncio.fixture
async def openai(site: Site) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{site.url}/v1", api_key="none") as client:
        yield client


@pytest.mark.parametrize("partial_images", [0, 1, 2, 3])
async def test_pictures_on_the_way(tiny: Site, partial_images: int) -> None:
    async with AsyncOpenAI(base_url=f"{tiny.url}/v1", api_key="none") as openai:
        settings: dict[str, Any] = USUAL | {"output_format": "webp", "extra_body": {"seed": 7}}
        whole = await openai.images.edit(**settings)
        stream = await openai.images.edit(**settings, stream=True, partial_images=partial_images)
        *partial, completed = [event async for event in stream]
    assert [event.partial_image_index for event in partial if event.type == "image_edit.partial_image"] == list(
        range(partial_images)
    )
    for event in partial:
        assert isinstance(event, ImageEditPartialImageEvent)
        assert event.output_format == "webp"
        assert base64.b64decode(event.b64_json)[8:12] == b"WEBP"
        assert (event.size, event.quality, event.background) == ("64x64", "auto", "auto")
    assert isinstance(completed, ImageEditCompletedEvent)
    assert whole.data
    assert_alike(base64.b64decode(completed.b64_json), base64.b64decode(whole.data[0].b64_json or ""))
    assert whole.usage is not None
    assert completed.usage.model_dump(exclude_none=True) == whole.usage.model_dump(exclude_none=True)
    assert len({completed.b64_json, *(event.b64_json for event in partial)}) == partial_images + 1


async def test_events_come_as_they_happen(openai: AsyncOpenAI, scripted: ScriptedReplica) -> None:
    asked = asyncio.create_task(openai.images.edit(**USUAL, stream=True, partial_images=1))
    edit = await scripted.edits.get()
    assert edit.order.previews == 1
    edit.step(0)
    async with await asked as stream:
        events = aiter(stream)
        edit.step(1, b"a picture")
        event = await anext(events)
        assert (event.type, event.b64_json) == ("image_edit.partial_image", base64.b64encode(b"a picture").decode())
        edit.succeed()
        event = await anext(events)
        assert event.type == "image_edit.completed"
        assert base64.b64decode(event.b64_json) == outcome_of(edit.order).image
        assert await anext(events, None) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MaskError("mask", "is bad"), BadRequestError),
        (TemplateNotCachedError("no records"), NotFoundError),
        (ReplicaError("broken"), InternalServerError),
    ],
)
async def test_failing_before_the_first_step_is_an_ordinary_error(
    site: Site, openai: AsyncOpenAI, scripted: ScriptedReplica, error: Exception, expected: type[Exception]
) -> None:
    asked = asyncio.create_task(openai.images.edit(**USUAL, stream=True))
    (await scripted.edits.get()).fail(error)
    with pytest.raises(expected, match=str(error)):
        await asked
    assert site.count(EDITS) == 1


@pytest.mark.parametrize(
    ("error", "param", "code"),
    [
        (MaskError("mask", "is bad"), "mask", None),
        (ReplicaError("broken"), None, "edit_failed"),
    ],
)
async def test_failing_later_is_an_event(
    openai: AsyncOpenAI, scripted: ScriptedReplica, error: Exception, param: str | None, code: str | None
) -> None:
    asked = asyncio.create_task(openai.images.edit(**USUAL, stream=True))
    edit = await scripted.edits.get()
    edit.step(0)
    stream = await asked
    edit.step(1)
    edit.fail(error)
    with pytest.raises(APIError, match=str(error)) as caught:
        await anext(aiter(stream))
    assert (caught.value.param, caught.value.code) == (param, code)


async def test_an_edit_that_waits_for_long_is_kept_alive(
    site: Site, scripted: ScriptedReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxies cut connections off that are silent for a minute."""
    monkeypatch.setattr("instgenie_server.routes.openai.KEEPALIVE_SECONDS", 0.02)
    monkeypatch.setattr("instgenie_server.routes.event_stream.KEEPALIVE_SECONDS", 0.02)
    async with site.session.post(EDITS, data=form(stream="true")) as response:
        assert response.status == 200
        assert await response.content.readline() == b": ping\n"
        (await scripted.edits.get()).fail(MaskError("mask", "is bad"))
        (event,) = [event async for event in sse_events(response)]
    assert event["event"] == "error"
    assert json.loads(event["data"])["error"]["param"] == "mask"


async def test_the_deadline_of_a_stream(site: Site, scripted: ScriptedReplica) -> None:
    async with site.session.post(EDITS, data=form(stream="true", deadline_ms=50)) as response:
        assert response.status == 504  # nothing was reported, so that nothing is under way
        assert (await response.json())["error"]["code"] == "deadline_exceeded"
    edit = await scripted.edits.get()
    await edit.stopped.wait()
    assert edit.cancelled


async def test_leaving_a_stream_cancels_the_edit(site: Site, scripted: ScriptedReplica) -> None:
    asked = asyncio.create_task(site.session.post(EDITS, data=form(stream="true", partial_images=2)))
    edit = await scripted.edits.get()
    edit.step(0)
    response = await asked
    edit.step(1, b"a picture")
    events = sse_events(response)
    assert (await anext(events))["event"] == "image_edit.partial_image"
    await events.aclose()
    response.close()
    async with asyncio.timeout(30):
        await edit.stopped.wait()
    assert edit.cancelled


async def test_only_one_result_is_streamed(site: Site) -> None:
    error = await site.error("POST", EDITS, 400, data=form(stream="true", n=2))
    assert error["param"] == "n"


async def test_previews_are_not_made_for_nobody(site: Site, scripted: ScriptedReplica) -> None:
    scripted_edit = asyncio.create_task(site.ask("POST", EDITS, data=form(partial_images=3)))
    edit = await scripted.edits.get()
    assert edit.order.previews == 0
    edit.succeed()
    await scripted_edit
    by_address = asyncio.create_task(site.ask("POST", EDITS, data=form(partial_images=3, response_format="url")))
    edit = await scripted.edits.get()
    assert edit.order.previews == 0
    edit.succeed()
    await by_address
