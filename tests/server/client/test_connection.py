"""Requests to a server: keys, error replies, what is asked again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator

import aiohttp
import pytest
from aiohttp import web

from instgenie.errors import ParameterError
from instgenie_server.client import Connection, ReplyError, UnreachableError, connection
from instgenie_server.client.connection import MAX_PAUSE_SECONDS, MAX_TRIES, _pause_seconds, checked_url
from instgenie_server.client.form import upload_form
from tests.server.client.conftest import Connect


async def test_key_and_reply(connect: Connect) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"key": request.headers.get("Authorization"), "path": request.path})

    server = await connect(handler, "ig-abc.def")
    assert await server.json("GET", "/v1/models") == {"key": "Bearer ig-abc.def", "path": "/v1/models"}
    server = await connect(handler)
    assert await server.json("GET", "/") == {"key": None, "path": "/"}


async def test_passing_refusals_are_asked_again_with_the_whole_body(connect: Connect) -> None:
    bodies: list[bytes] = []

    async def handler(request: web.Request) -> web.Response:
        bodies.append((await request.post())["field"].encode())  # type: ignore[union-attr]
        if len(bodies) < MAX_TRIES:
            error = {"error": {"message": "busy", "type": "x", "param": None, "code": "overloaded"}}
            return web.json_response(error, status=(429, 503)[len(bodies) % 2], headers={"retry-after-ms": "1"})
        return web.json_response({"done": True})

    server = await connect(handler)
    assert await server.json("POST", "/", lambda: aiohttp.FormData({"field": "value"})) == {"done": True}
    assert bodies == [b"value"] * MAX_TRIES


async def test_gives_up_on_a_server_that_stays_busy(connect: Connect) -> None:
    tries = 0

    async def handler(_request: web.Request) -> web.Response:
        nonlocal tries
        tries += 1
        return web.json_response({"error": {"message": "busy"}}, status=429, headers={"retry-after-ms": "1"})

    with pytest.raises(ReplyError, match="busy"):
        await (await connect(handler)).json("GET", "/")
    assert tries == MAX_TRIES


@pytest.mark.parametrize(
    ("status", "headers"), [(400, {}), (401, {}), (500, {}), (503, {"x-should-retry": "false"}), (302, {})]
)
async def test_lasting_refusals_are_not(connect: Connect, status: int, headers: dict[str, str]) -> None:
    tries = 0

    async def handler(_request: web.Request) -> web.Response:
        nonlocal tries
        tries += 1
        told = {"error": {"message": "no: it is wrong", "code": "wrong"}}
        return web.json_response(told, status=status, headers=headers)

    with pytest.raises(ReplyError, match=r"^no: it is wrong$") as caught:
        await (await connect(handler)).json("GET", "/")
    assert (caught.value.status, caught.value.code, tries) == (status, "wrong", 1)


@pytest.mark.parametrize("text", ["", "<html>", "[]", "{}", '{"error": 3}', '{"error": {}}'])
async def test_error_replies_of_others(connect: Connect, text: str) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(text=text, status=502, content_type="text/html")

    with pytest.raises(ReplyError, match="/x: HTTP 502 Bad Gateway"):
        await (await connect(handler)).json("GET", "/x")


@pytest.mark.parametrize("text", ["<html>", "[1]", '"word"'])
async def test_replies_of_others(connect: Connect, text: str) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(text=text)

    with pytest.raises(UnreachableError, match="is it an instgenie server"):
        await (await connect(handler)).json("GET", "/")


async def test_a_reply_that_breaks_off(connect: Connect) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"Content-Length": "100"})
        await reply.prepare(request)
        await reply.write(b"some")
        assert request.transport is not None
        request.transport.abort()
        return reply

    with pytest.raises(UnreachableError):
        await (await connect(handler)).bytes("GET", "/")


Cut = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


async def in_the_upload(request: web.Request) -> None:
    await request.content.readany()


async def after_the_upload(request: web.Request) -> None:
    await request.post()


async def in_the_reply(request: web.Request) -> web.StreamResponse:
    await request.post()
    reply = web.StreamResponse(headers={"Content-Length": "100"})
    await reply.prepare(request)
    await reply.write(b"some")
    return reply


class Cutter:
    """A server that cuts the first connections off, each at that place."""

    def __init__(self, cut: Cut, times: int) -> None:
        self.cut, self.times, self.keys = cut, times, list[str | None]()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.keys.append(request.headers.get("Idempotency-Key"))
        if len(self.keys) > self.times:
            return web.json_response({"bytes": len((await request.post())["image"])})  # type: ignore[arg-type]
        reply = await self.cut(request)
        assert request.transport is not None
        request.transport.abort()
        return reply or web.Response()


@pytest.mark.parametrize("cut", [in_the_upload, after_the_upload, in_the_reply])
async def test_broken_connections_with_a_key(connect: Connect, cut: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BREAK_SECONDS", 0.0)
    form = upload_form({"image": "x" * 900_000}, {})
    cutter = Cutter(cut, 2)
    assert await (await connect(cutter)).json("POST", "/", form, Idempotency_Key="k") == {"bytes": 900_000}
    assert cutter.keys == ["k"] * 3
    cutter = Cutter(cut, MAX_TRIES)
    with pytest.raises(UnreachableError):
        await (await connect(cutter)).json("POST", "/", form, Idempotency_Key="k")
    assert cutter.keys == ["k"] * MAX_TRIES
    cutter = Cutter(cut, 1)
    with pytest.raises(UnreachableError):
        await (await connect(cutter)).json("POST", "/", form)
    assert cutter.keys == [None]


@pytest.fixture
def kept_port() -> Iterator[int]:
    """Nobody listens there, and nobody else gets it; a server of the test may."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


async def test_a_server_that_starts_again(kept_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cuts the connection off, is not there for some tries, and answers then."""
    monkeypatch.setattr(connection, "BREAK_SECONDS", 0.02)
    stopped = asyncio.Event()

    async def stop(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first.close()
        writer.transport.abort()
        stopped.set()

    async def answer(_request: web.BaseRequest) -> web.Response:
        return web.json_response({"done": True})

    first = await asyncio.start_server(stop, "127.0.0.1", kept_port)
    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    async with Connection(f"http://127.0.0.1:{kept_port}") as server:
        asked = asyncio.create_task(server.json("POST", "/", Idempotency_Key="k"))
        await stopped.wait()
        await asyncio.sleep(0.03)
        await web.TCPSite(runner, "127.0.0.1", kept_port).start()
        assert await asked == {"done": True}
    await runner.cleanup()


async def test_nobody_there_is_told_at_once(kept_port: int) -> None:
    async with asyncio.timeout(10), Connection(f"http://127.0.0.1:{kept_port}") as server:  # all tries would take 15 s
        with pytest.raises(UnreachableError, match="refused"):
            await server.json("POST", "/", Idempotency_Key="k")


@pytest.mark.parametrize("value", ["soon", "nan", "-1", "inf"])
def test_odd_retry_after(value: str) -> None:
    assert 0 <= _pause_seconds({"retry-after": value}) <= MAX_PAUSE_SECONDS


def test_addresses() -> None:
    assert checked_url("https://host:8731/path/") == "https://host:8731/path"
    assert checked_url("http://[::1]:80") == "http://[::1]:80"
    for url in ("host", "http://", "http://a b", "http://host?x", "http://host#x", "http://u@host", "http://[::1"):
        with pytest.raises(ParameterError, match="server: "):
            checked_url(url)


@pytest.mark.parametrize("api_key", ["two words", "line\nbreak", "ü"])
def test_keys_that_cannot_be_sent(api_key: str) -> None:
    with pytest.raises(ParameterError, match="api_key") as caught:
        Connection("http://host", api_key)
    assert api_key not in str(caught.value)
