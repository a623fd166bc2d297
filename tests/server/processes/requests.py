"""Requests that the process tests send: small pictures, and as little of an HTTP client as they need."""

from __future__ import annotations

import asyncio
import io
from functools import cache
from typing import Any

import aiohttp
import numpy as np
from PIL import Image

SIDE = 64  # of the tiny model's canvas: pictures are not scaled


@cache
def picture_png(number: int) -> bytes:
    """A random picture, another one for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return _png(Image.fromarray(pixels))


@cache
def mask_png() -> bytes:
    """White, and edited, in a part of the picture."""
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[20:44, 12:40] = 255
    return _png(Image.fromarray(pixels))


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def edit_form(image: bytes, **fields: object) -> aiohttp.FormData:
    """A form of an edit; a field of None is left out."""
    form = aiohttp.FormData()
    for name, value in ({"prompt": "a red ball"} | fields).items():
        if value is not None:
            form.add_field(name, str(value))
    form.add_field("image", image, filename="image.png", content_type="image/png")
    form.add_field("mask", mask_png(), filename="mask.png", content_type="image/png")
    return form


async def read_events(response: aiohttp.ClientResponse) -> list[str]:
    """Names of a stream's events, until it ends."""
    return [line[7:].strip().decode() async for line in response.content if line.startswith(b"event: ")]


async def ended_job(session: aiohttp.ClientSession, job_id: str, seconds: float = 60) -> dict[str, Any]:
    """The job, once it has its end."""
    async with asyncio.timeout(seconds):
        async with session.get(f"/v1/edits/{job_id}/events") as response:
            assert response.status == 200, await response.text()
            await read_events(response)
    async with session.get(f"/v1/edits/{job_id}") as response:
        assert response.status == 200, await response.text()
        job: dict[str, Any] = await response.json()
        return job


async def all_jobs(session: aiohttp.ClientSession) -> list[dict[str, Any]]:
    """All jobs, newest first, over all pages."""
    found: list[dict[str, Any]] = []
    query = {"limit": "100"}
    while True:
        async with session.get("/v1/edits", params=query) as response:
            assert response.status == 200, await response.text()
            page = await response.json()
        found += page["data"]
        if not page["has_more"]:
            return found
        query["after"] = page["next"]


async def metric(session: aiohttp.ClientSession, name: str) -> float:
    """A sample of the metrics page, by its name and labels as they are written there."""
    async with session.get("/metrics") as response:
        text = await response.text()
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])
