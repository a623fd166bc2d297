"""`POST /v1/images/edits` through the `openai` SDK, on the tiny model."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from aiohttp import ClientSession
from openai import AsyncOpenAI, NotFoundError, OpenAI
from openai.types import ImagesResponse
from PIL import Image

from instgenie.fidelity import MeasuredSetting
from instgenie_server.openapi import openapi_document
from instgenie_server.settings import CacheSettings, Settings
from tests.server.intake.pictures import assert_alike, noise, png
from tests.server.routes.scripted_replica import MODEL, ScriptedReplica
from tests.server.routes.site import (
    EDITED,
    SIDE,
    Site,
    alpha_mask_png,
    form,
    mask_png,
    picture,
    pixels_of,
    ready,
    running_site,
)

EDITS = "/v1/images/edits"


@pytest_asyncio.fixture
async def openai(tiny: Site) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{tiny.url}/v1", api_key="none") as client:
        yield client


async def edit(openai: AsyncOpenAI, **parameters: Any) -> ImagesResponse:
    """An edit of the usual picture."""
    usual = {"image": png(picture()), "mask": mask_png(), "prompt": "a red ball", "extra_body": {"seed": 7}}
    reply: ImagesResponse = await openai.images.edit(**(usual | parameters))
    return reply


def files_of(reply: ImagesResponse) -> list[bytes]:
    """The pictures of a reply in base64."""
    assert reply.data
    return [base64.b64decode(image.b64_json or "") for image in reply.data]


def outside(pixels: np.ndarray[Any, Any]) -> bytes:
    """What is not edited."""
    kept = pixels.copy()
    kept[EDITED] = 0
    return kept.tobytes()


async def test_an_edit(openai: AsyncOpenAI) -> None:
    reply = await edit(openai)
    (file,) = files_of(reply)
    before, after = np.asarray(picture()), pixels_of(file)
    assert outside(after) == outside(before)
    assert (after[EDITED] != before[EDITED]).any()
    assert (reply.output_format, reply.size) == ("png", f"{SIDE}x{SIDE}")
    assert reply.usage is not None
    assert reply.usage.input_tokens_details.image_tokens == reply.usage.input_tokens == 64
    assert 0 < reply.usage.output_tokens < 64
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    assert not reply.model_extra


async def test_every_kind_of_file(openai: AsyncOpenAI, tmp_path: Path) -> None:
    (expected,) = files_of(await edit(openai))
    image, mask = tmp_path / "an image.png", tmp_path / "mask.png"
    image.write_bytes(png(picture()))
    mask.write_bytes(mask_png())
    with image.open("rb") as image_file, mask.open("rb") as mask_file:
        kinds: list[tuple[Any, Any]] = [
            (image, mask),
            (image_file, mask_file),
            (io.BytesIO(png(picture())), io.BytesIO(mask_png())),
            (("a.jpg", png(picture()), "image/jpeg"), ("m", mask_png())),
            ([png(picture())], mask),
            ([png(picture()), png(noise(9, 9))], mask_png()),
        ]
        for given, given_mask in kinds:
            (file,) = files_of(await edit(openai, image=given, mask=given_mask))
            assert_alike(file, expected)


@pytest.mark.parametrize("upload", ["RGB", "RGBA"])
async def test_outside_of_a_transparent_hole_nothing_changes(openai: AsyncOpenAI, upload: str) -> None:
    """Pixel by pixel, whatever colours are hidden in transparent parts of the upload."""
    image = picture(3)
    if upload == "RGBA":
        alpha = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE), np.uint8)
        image.putalpha(Image.fromarray(alpha))
    (file,) = files_of(await edit(openai, image=png(image), mask=alpha_mask_png()))
    before, after = np.asarray(image), pixels_of(file)
    assert after.shape == before.shape
    assert outside(after) == outside(before)
    assert (after[EDITED] != before[EDITED]).any()


async def test_a_hole_in_the_upload_itself(openai: AsyncOpenAI) -> None:
    pixels = np.dstack([np.asarray(picture(4)), np.full((SIDE, SIDE), 255, np.uint8)])
    pixels[..., 3][EDITED] = 0
    reply = await openai.images.edit(image=png(Image.fromarray(pixels)), prompt="a red ball")
    (file,) = files_of(reply)
    after = pixels_of(file)
    assert outside(after) == outside(pixels)
    assert (after[..., 3][EDITED] == 255).all()


async def test_a_large_picture_is_edited_in_a_window(openai: AsyncOpenAI) -> None:
    before = np.asarray(noise(301, 203))
    hole = np.zeros((203, 301), np.uint8)
    hole[100:130, 200:240] = 255
    (file,) = files_of(await edit(openai, image=png(noise(301, 203)), mask=png(Image.fromarray(hole))))
    after = pixels_of(file)
    changed = (after != before).any(axis=2)
    assert changed.any()
    assert not changed[hole == 0].any()


async def test_several_results_have_seeds_of_their_own(openai: AsyncOpenAI) -> None:
    both = files_of(await edit(openai, n=2))
    assert both[0] != both[1]
    (second,) = files_of(await edit(openai, extra_body={"seed": 8}))
    assert_alike(second, both[1])


@pytest.mark.parametrize(("output_format", "compression"), [("webp", 100), ("webp", 50), ("jpeg", 80), ("png", 100)])
async def test_formats(openai: AsyncOpenAI, output_format: str, compression: int) -> None:
    reply = await edit(openai, output_format=output_format, output_compression=compression, size="48x32")
    (file,) = files_of(reply)
    image = Image.open(io.BytesIO(file))
    assert (image.format, image.size) == (output_format.upper(), (48, 32))
    assert (reply.output_format, reply.size) == (output_format, "48x32")


async def test_addresses_of_results(openai: AsyncOpenAI) -> None:
    expected = files_of(await edit(openai, n=2))
    reply = await edit(openai, n=2, response_format="url")
    assert reply.data
    assert reply.usage is not None
    async with ClientSession() as session:
        for image, file in zip(reply.data, expected, strict=True):
            assert image.b64_json is None
            async with session.get(image.url or "") as response:
                assert response.status == 200
                assert response.content_type == "image/png"
                assert_alike(await response.read(), file)


@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("auto", {"dense": False, "halo": 1, "refreshes": 0, "step_cache": 2}),
        ("exact", {"dense": True}),
        (None, None),
    ],
)
async def test_what_fidelity_chose(
    asked: str | None, chosen: dict[str, Any] | None, stream: str, tmp_path: Path
) -> None:
    card = replace(MODEL, measured=(MeasuredSetting(1, 0, MODEL.steps, 38.0, 0.3, step_cache=2),))
    settings = Settings(data_dir=tmp_path / "data", cache=CacheSettings(service=None))
    fields = form(png(picture()), stream=stream, fidelity=asked)
    async with (
        running_site(settings, ready(ScriptedReplica(at_once=True, model=card))) as site,
        site.session.post(EDITS, data=fields) as response,
    ):
        assert response.status == 200
        told = {name.lower() for name in response.headers if name.lower().startswith("x-instgenie-")}
        header = response.headers.get("x-instgenie-fidelity")
    assert (header and json.loads(header)) == chosen
    described = openapi_document()["paths"][EDITS]["post"]["responses"]["200"]["headers"].keys()
    of_events = {"x-instgenie-cache", "x-instgenie-tier"} if stream == "true" else set()
    unasked = {"x-instgenie-fidelity"} if asked is None else set()
    assert told == described - of_events - unasked


async def test_what_the_headers_tell(tiny: Site) -> None:
    seeds = set()
    for _ in range(2):
        async with tiny.session.post(EDITS, data=form(png(picture(5)), n=2)) as response:
            assert response.status == 200
            assert response.headers["x-request-id"].startswith("req-")
            seeds.add(response.headers["x-instgenie-seed"])
    assert response.headers["x-instgenie-cache"] == "hit,hit"
    assert len(seeds) == 2
    form_again = form(png(picture(5)), seed=seeds.pop())
    async with tiny.session.post(EDITS, data=form_again, headers={"x-request-id": "mine-1"}) as response:
        assert response.headers["x-request-id"] == "mine-1"


async def test_records_that_must_be_there(openai: AsyncOpenAI) -> None:
    only = {"image": png(picture(6)), "extra_body": {"cache": "only"}}
    with pytest.raises(NotFoundError) as caught:
        await edit(openai, **only)
    assert (caught.value.code, caught.value.param) == ("template_not_cached", "cache")
    with pytest.raises(NotFoundError) as caught:
        await edit(openai, **only, response_format="url")
    assert (caught.value.code, caught.value.param) == ("template_not_cached", "cache")
    await edit(openai, image=png(picture(6)))
    assert files_of(await edit(openai, **only))


async def test_models(openai: AsyncOpenAI) -> None:
    models = [model async for model in await openai.models.list()]
    assert [model.id for model in models] == ["tiny-builtin"]
    model = await openai.models.retrieve("tiny-builtin")
    assert (model.object, model.owned_by) == ("model", "instgenie")
    assert model.model_extra is not None
    assert model.model_extra["defaults"] == {
        "steps": 4,
        "guidance": 3.0,
        "canvas_pixels": 64,
        "halo": 1,
        "refreshes": 0,
    }
    assert model.model_extra["draws"] == ["red apple", "star"]
    assert model.model_extra["limits"]["image_bytes"] == 50_000_000
    with pytest.raises(NotFoundError, match="not served here"):
        await openai.models.retrieve("gpt-image-1")
    assert files_of(await edit(openai, model="tiny-builtin"))


async def test_the_synchronous_client(tiny: Site, openai: AsyncOpenAI, tmp_path: Path) -> None:
    (expected,) = files_of(await edit(openai))
    image = tmp_path / "image.png"
    image.write_bytes(png(picture()))

    def send() -> tuple[ImagesResponse, list[str]]:
        with OpenAI(base_url=f"{tiny.url}/v1", api_key="none") as client, image.open("rb") as file:
            settings: dict[str, Any] = {"prompt": "a red ball", "mask": mask_png(), "extra_body": {"seed": 7}}
            reply = client.images.edit(image=file, **settings)
            with client.images.edit(image=image, stream=True, partial_images=1, **settings) as stream:
                return reply, [event.type for event in stream]

    reply, types = await asyncio.to_thread(send)
    (file,) = files_of(reply)
    assert_alike(file, expected)
    assert types == ["image_edit.partial_image", "image_edit.completed"]
