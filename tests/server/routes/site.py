"""A server in the test's loop on a free port of loopback, and what a test asks it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
from aiohttp import web
from PIL import Image

from instgenie.orders import Replica
from instgenie_server.app import OpenReplica, make_app
from instgenie_server.engine_slot import Engine
from instgenie_server.fleet.awaited import FirstReplicas
from instgenie_server.routes.keys import ENGINE
from instgenie_server.settings import Settings
from tests.server.intake.pictures import noise, png

SIDE = 64  # of the tiny model's canvas: pictures are not scaled
EDITED = (slice(16, 40), slice(24, 48))  # rows and columns


@dataclass(slots=True)
class Site:
    """A running server.

    Attributes:
        session: asks it, paths being relative to it.
        answered: method, route and status of what it has answered, in order.
    """

    app: web.Application
    runner: web.AppRunner
    url: str
    session: aiohttp.ClientSession
    answered: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def engine(self) -> Engine:
        return self.app[ENGINE].engine

    async def get(self, path: str, status: int = 200, **options: Any) -> Any:
        """The JSON of a GET with that status."""
        return await self.ask("GET", path, status, **options)

    async def ask(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        """The JSON of a reply with that status; None where it has no body."""
        async with self.session.request(method, path, **options) as response:
            assert response.status == status, await response.text()
            return None if response.status == 204 else await response.json()

    async def error(self, method: str, path: str, status: int, **options: Any) -> dict[str, Any]:
        """The error of a reply with that status, after a look at its form."""
        error: dict[str, Any] = (await self.ask(method, path, status, **options))["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error

    def count(self, route: str) -> int:
        """How many requests of the route were answered."""
        return sum(path == route for _, path, _ in self.answered)


@asynccontextmanager
async def running_site(
    settings: Settings, open_replica: OpenReplica, *, opened: bool = True, first_replicas: FirstReplicas | None = None
) -> AsyncIterator[Site]:
    """A server; once it takes edits, where `opened`."""
    app = make_app(settings, open_replica, first_replicas)
    answered: list[tuple[str, str, int]] = []

    async def note(request: web.Request, response: web.StreamResponse) -> None:
        answered.append((request.method, request.path, response.status))

    app.on_response_prepare.append(note)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        if opened:
            await app[ENGINE].opened()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(60)) as session:
            yield Site(app, runner, url, session, answered)
    finally:
        await runner.cleanup()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop go on until the condition holds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


def ready(replica: Replica) -> OpenReplica:
    """A way to open a replica that is there already, and that stays when the server goes."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Replica]:
        yield replica

    return opened


def picture(seed: int = 0) -> Image.Image:
    """A random RGB picture of the tiny model's size."""
    if seed == 0:
        return noise(SIDE, SIDE)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8))


def mask_png() -> bytes:
    """White, and edited, in `EDITED`."""
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[EDITED] = 255
    return png(Image.fromarray(pixels))


def alpha_mask_png() -> bytes:
    """Transparent, and edited, in `EDITED`."""
    pixels = np.full((SIDE, SIDE, 4), 255, np.uint8)
    pixels[..., 3][EDITED] = 0
    return png(Image.fromarray(pixels))


def form(image: bytes | None = None, mask: bytes | None = None, **fields: Any) -> aiohttp.FormData:
    """An edit's form; a field of None is left out."""
    data = aiohttp.FormData()
    for name, value in ({"prompt": "a red ball"} | fields).items():
        if value is not None:
            data.add_field(name, str(value))
    data.add_field("image", png(picture()) if image is None else image, filename="image.png")
    data.add_field("mask", mask_png() if mask is None else mask, filename="mask.png")
    return data


def pixels_of(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """[H, W, C] of a picture file."""
    return np.asarray(Image.open(io.BytesIO(data)))


async def sse_events(response: aiohttp.ClientResponse) -> AsyncGenerator[dict[str, str], None]:
    """Events of a stream: id, event and data, as far as they are there."""
    event: dict[str, str] = {}
    async for line in response.content:
        text = line.decode().rstrip("\n")
        if text:
            name, _, value = text.partition(": ")
            event[name] = value
        elif event:
            if "data" in event:  # not a comment
                yield event
            event = {}
