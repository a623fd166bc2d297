"""A real server that reads forms, and a client that sends it any bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp.typedefs import Handler
from blockbuster import blockbuster_ctx

from instgenie_server.access.auth import Identity
from instgenie_server.access.upload_permits import UploadPermits
from instgenie_server.api_error import ApiError
from instgenie_server.app_keys import IDENTITY
from instgenie_server.intake import EditForm, read_edit_form, read_form, read_img2img, read_uploads
from instgenie_server.settings import LimitSettings
from tests.server.intake.bodies import CONTENT_TYPE

LIMITS = LimitSettings(part_bytes=2000, request_bytes=5000, parts=24, uploads=2, upload_seconds=30)


@dataclass(slots=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error, after a look at its form."""
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


@dataclass(slots=True)
class IntakeServer:
    """Reads forms at /form, edits at /v1/images/edits and img2img at /img2img, and tells what it read.

    Attributes:
        identity: who its clients are, where access control told.
    """

    limits: LimitSettings
    uploads: UploadPermits
    server: TestServer
    identity: Identity | None = None
    ends: asyncio.Queue[BaseException | None] = field(default_factory=asyncio.Queue)

    async def exchange(self, raw: bytes, *, pieces: list[bytes] | None = None) -> Reply | None:
        """Send the bytes, or the pieces one by one; None if the server hangs up without a reply."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            for piece in pieces or [raw]:
                writer.write(piece)
                await writer.drain()
            return await _read_reply(reader)
        finally:
            writer.close()

    async def post(
        self,
        body: bytes,
        content_type: str | None = CONTENT_TYPE,
        *,
        pieces: list[bytes] | None = None,
        path: str = "/form",
    ) -> Reply:
        """Post a whole body, with its length."""
        head = request_head(path, content_type, f"Content-Length: {len(body)}")
        reply = await self.exchange(head + body, pieces=[head, *pieces] if pieces else None)
        assert reply is not None
        return reply


def request_head(path: str, content_type: str | None, *lines: str) -> bytes:
    """The head of a POST."""
    types = [] if content_type is None else [f"Content-Type: {content_type}"]
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", "Connection: close", *types, *lines, "", ""]).encode()


async def _read_reply(reader: asyncio.StreamReader) -> Reply | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.split("\r\n")[:-2]
    headers = {key.lower(): value for key, value in (line.split(": ", 1) for line in lines)}
    return Reply(int(first.split()[1]), headers, await reader.readexactly(int(headers["content-length"])))


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return web.json_response(error.body(), status=error.status, headers=error.headers())


async def start_server(limits: LimitSettings) -> IntakeServer:
    """A server within these limits, on a free port."""
    app = web.Application(middlewares=[_answer_errors])
    intake = IntakeServer(limits, UploadPermits(limits.uploads), TestServer(app))

    async def form(request: web.Request) -> web.Response:
        if intake.identity is not None:
            request[IDENTITY] = intake.identity
        try:
            form = await read_form(request, intake.limits, intake.uploads)
        except BaseException as error:
            intake.ends.put_nowait(error)
            raise
        intake.ends.put_nowait(None)
        files = {name: [[f.filename, f.data.decode("latin-1")] for f in files] for name, files in form.files.items()}
        return web.json_response({"fields": form.fields, "files": files})

    async def edits(request: web.Request) -> web.Response:
        form = await read_form(request, intake.limits, intake.uploads)
        uploads = read_uploads(form)
        values = read_edit_form(form.fields, ["instgenie-builtin"], EditForm)
        sizes = {"image": len(uploads.image), "mask": None if uploads.mask is None else len(uploads.mask)}
        return web.json_response({"created": 1, "values": values.model_dump(), **sizes})

    async def img2img(request: web.Request) -> web.Response:
        read = await read_img2img(request, intake.limits, intake.uploads)
        return web.json_response({"n": read.form.n, "image": len(read.uploads.image)})

    app.router.add_post("/form", form)
    app.router.add_post("/v1/images/edits", edits)
    app.router.add_post("/img2img", img2img)
    await intake.server.start_server()
    return intake


@pytest.fixture(autouse=True)
def loop_stays_free() -> Iterator[None]:
    """Fail a test whose event loop is blocked by the package."""
    with blockbuster_ctx("instgenie_server.intake"):
        yield


@pytest.fixture
async def intake() -> AsyncIterator[IntakeServer]:
    """A server with low limits."""
    server = await start_server(LIMITS)
    yield server
    await server.server.close()
