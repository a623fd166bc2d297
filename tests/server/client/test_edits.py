"""Following one edit: events that break off are taken up again, and a client that leaves cancels."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from instgenie_server.client import ReplyError, UnreachableError, edits, run_edit
from tests.server.client.conftest import Connect

JOB = {"id": "edit-1", "status": "done", "timings": {}}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edits, "BREAK_SECONDS", 0.0)


class Script:
    """A server with one edit, whose events come in parts: each connection gets the next one and is cut off."""

    def __init__(self, *parts: bytes, job: dict[str, object] | None = None) -> None:
        self.parts = list(parts)
        self.resumed_after: list[str | None] = []
        self.cancelled = asyncio.Event()
        self.watched = asyncio.Event()
        self.job = job or JOB

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        path, method = request.path, request.method
        if method == "POST":
            await request.post()
            return web.json_response({"id": "edit-1", "status": "queued"}, status=202)
        if method == "DELETE":
            self.cancelled.set()
            return web.json_response(self.job)
        if path.endswith("/image"):
            return web.Response(body=b"picture")
        if not path.endswith("/events"):
            return web.json_response(self.job)
        self.resumed_after.append(request.headers.get("Last-Event-ID"))
        if not self.parts:
            return web.json_response({"error": {"message": "stopping"}}, status=503)
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        await reply.write(self.parts.pop(0))
        self.watched.set()
        if self.parts == [b"wait"]:
            await self.cancelled.wait()
        assert request.transport is not None
        request.transport.abort()
        return reply


def event(number: int, name: str, data: str = "{}") -> bytes:
    return f"id: {number}\nevent: {name}\ndata: {data}\n\n".encode()


async def test_followed_over_breaks(connect: Connect) -> None:
    script = Script(
        event(1, "queued", '{"position": 3}') + b": ping\n\n",
        event(2, "started") + event(3, "step", '{"step": 1, "steps": 4}') + b"id: 4\neve",
        event(4, "done"),
    )
    said: list[str] = []
    done = await run_edit(await connect(script), b"image", None, {"prompt": "x"}, said.append)
    assert done.image == b"picture"
    assert said == ["uploading", "waiting, place 3", "started", "step 1 of 4"]
    assert script.resumed_after[0] is None
    assert len(script.resumed_after) == 3


async def test_events_that_break_off_for_good(connect: Connect) -> None:
    with pytest.raises((UnreachableError, ReplyError)):
        await run_edit(await connect(Script(event(1, "queued"))), b"image", b"mask", {}, lambda _: None)


async def test_failed_edit(connect: Connect) -> None:
    job: dict[str, object] = {"id": "edit-1", "status": "failed", "error": {"message": "mask: is empty", "code": "x"}}
    with pytest.raises(ReplyError, match=r"^mask: is empty$"):
        await run_edit(await connect(Script(event(1, "failed"), job=job)), b"image", None, {}, lambda _: None)


async def test_leaving_cancels(connect: Connect) -> None:
    script = Script(event(1, "started"), b"wait")
    edit = asyncio.create_task(run_edit(await connect(script), b"image", None, {}, lambda _: None))
    await script.watched.wait()
    edit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await edit
    assert script.cancelled.is_set()


async def test_timings_of_another_version(connect: Connect) -> None:
    done = await run_edit(await connect(Script(event(1, "done"))), b"image", None, {}, lambda _: None)
    with pytest.raises(UnreachableError, match="version"):
        _ = done.timings
