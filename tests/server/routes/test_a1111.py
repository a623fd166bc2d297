"""AUTOMATIC1111's img2img and its progress."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import numpy as np
import pytest

from instgenie.errors import MaskError
from tests.server.intake.pictures import assert_alike, png
from tests.server.routes.scripted_replica import ScriptedReplica
from tests.server.routes.site import EDITED, Site, form, mask_png, picture, pixels_of

IMG2IMG, PROGRESS = "/sdapi/v1/img2img", "/sdapi/v1/progress"


def body(**fields: Any) -> dict[str, Any]:
    usual = {
        "init_images": [base64.b64encode(png(picture())).decode()],
        "mask": base64.b64encode(mask_png()).decode(),
        "prompt": "a red ball",
        "seed": 7,
        "mask_blur": 0,
        "denoising_strength": 1,
    }
    return usual | fields


async def images(site: Site, **fields: Any) -> list[bytes]:
    reply = await site.ask("POST", IMG2IMG, json=body(**fields))
    return [base64.b64decode(image) for image in reply["images"]]


async def test_it_is_the_same_edit_as_everywhere(tiny: Site) -> None:
    (file,) = await images(tiny)
    at_once = await tiny.ask("POST", "/v1/images/edits", data=form(seed=7))
    assert_alike(file, base64.b64decode(at_once["data"][0]["b64_json"]))


async def test_an_inverted_mask(tiny: Site) -> None:
    (file,) = await images(tiny, inpainting_mask_invert=1)
    before, after = np.asarray(picture()), pixels_of(file)
    assert (before[EDITED] == after[EDITED]).all()
    assert (before != after).any()


async def test_several_results(tiny: Site) -> None:
    reply = await tiny.ask("POST", IMG2IMG, json=body(batch_size=2, sampler_name="Euler", steps=3))
    assert len(set(reply["images"])) == 2
    info = json.loads(reply["info"])
    assert (info["seed"], info["all_seeds"], info["prompt"]) == (7, [7, 8], "a red ball")
    assert reply["parameters"]["seed"] == 7
    assert reply["parameters"]["steps"] == 3


async def test_a_drawn_seed_is_told(tiny: Site) -> None:
    reply = await tiny.ask("POST", IMG2IMG, json=body(seed=-1))
    seed = json.loads(reply["info"])["seed"]
    assert seed >= 0
    (again,) = await images(tiny, seed=seed)
    assert_alike(again, base64.b64decode(reply["images"][0]))


async def test_progress(site: Site, scripted: ScriptedReplica) -> None:
    idle = await site.get(PROGRESS)
    assert (idle["progress"], idle["eta_relative"], idle["state"]["job_count"]) == (0, 0, 0)
    asked = asyncio.create_task(images(site, batch_size=2))
    edits = [await scripted.edits.get() for _ in range(2)]
    assert (await site.get(PROGRESS))["progress"] == 0
    told = []
    for number, step in ((1, 0), (0, 0), (0, 1), (1, 1), (0, 3), (1, 2), (0, 4), (1, 4)):
        edits[number].step(step)
        progress = await site.get(PROGRESS)
        assert progress["eta_relative"] >= 0
        state = progress["state"]
        assert (state["sampling_steps"], state["job_count"]) == (4, 2)
        told.append((progress["progress"], state["sampling_step"], state["job_no"]))
    assert told == [
        (0, 0, 0),
        (0, 0, 0),
        (0.125, 1, 0),
        (0.25, 1, 0),
        (0.5, 3, 0),
        (0.625, 3, 0),
        (0.75, 2, 1),  # of the one that still runs
        (1, 4, 1),
    ]
    for edit in edits:
        edit.succeed()
    assert len(await asked) == 2
    assert (await site.get(PROGRESS))["state"]["job_count"] == 0


async def test_progress_after_a_failure(site: Site, scripted: ScriptedReplica) -> None:
    asked = asyncio.create_task(site.error("POST", IMG2IMG, 400, json=body()))
    (await scripted.edits.get()).fail(MaskError("mask", "is bad"))
    assert (await asked)["param"] == "mask"
    assert (await site.get(PROGRESS))["state"]["job_count"] == 0


async def test_leaving_cancels_it(site: Site, scripted: ScriptedReplica) -> None:
    asked = asyncio.create_task(images(site))
    edit = await scripted.edits.get()
    asked.cancel()
    async with asyncio.timeout(30):
        await edit.stopped.wait()
    assert edit.cancelled


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"init_images": []}, "init_images"),
        ({"init_images": ["https://elsewhere.example/picture.png"]}, "init_images"),
        ({"init_images": [base64.b64encode(b"no picture").decode()]}, "init_images"),
        ({"mask": "?"}, "mask"),
        ({"steps": 0}, "steps"),
        ({"denoising_strength": 2}, "denoising_strength"),
        ({"width": 64}, "height"),
    ],
)
async def test_what_the_request_is_at_fault_for(site: Site, fields: dict[str, Any], param: str) -> None:
    assert (await site.error("POST", IMG2IMG, 400, json=body(**fields)))["param"] == param


async def test_a_body_that_is_no_json(site: Site) -> None:
    assert (await site.error("POST", IMG2IMG, 400, data=b"{"))["code"] == "invalid_json"
    await site.error("POST", IMG2IMG, 400, data=b"[]")
