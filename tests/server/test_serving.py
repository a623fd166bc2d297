"""A server from its start to the signal that ends it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from structlog.testing import capture_logs

from instgenie.errors import CheckpointError
from instgenie.orders import Replica
from instgenie_server.operator_error import ExposureError, OperatorError
from instgenie_server.serving import AddressError, serve
from instgenie_server.settings import Settings
from tests.server.routes.scripted_replica import ScriptedReplica
from tests.server.routes.site import form, ready


def nobody(_url: str) -> None:
    raise AssertionError("it is not ready")


def first_url() -> tuple[asyncio.Future[str], Callable[[str], None]]:
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    return url, url.set_result


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_until_a_signal(tmp_path: Path, number: signal.Signals, host: str) -> None:
    if host == "::1" and not has_ipv6():
        pytest.skip("no IPv6 here")
    url, on_ready = first_url()
    settings = Settings(host=host, port=0, data_dir=tmp_path)
    replica = ScriptedReplica()
    running = asyncio.create_task(serve(settings, ready(replica), on_ready))
    async with aiohttp.ClientSession(await url) as session:
        asked = asyncio.create_task(session.post("/v1/images/edits", data=form()))
        edit = await replica.edits.get()
        os.kill(os.getpid(), number)
        edit.succeed()
        async with await asked as response:
            assert response.status == 200
    await running


async def test_a_hangup_without_replicas_of_its_own_changes_nothing(tmp_path: Path) -> None:
    url, on_ready = first_url()
    running = asyncio.create_task(serve(Settings(port=0, data_dir=tmp_path), ready(ScriptedReplica()), on_ready))
    async with aiohttp.ClientSession(await url) as session:
        with capture_logs() as logged:
            os.kill(os.getpid(), signal.SIGHUP)
            async with session.get("/readyz") as reply:
                assert reply.status == 200
        assert "SIGHUP: there are no replicas to renew" in [line["event"] for line in logged]
        os.kill(os.getpid(), signal.SIGTERM)
        await running


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


async def test_a_signal_while_it_starts(tmp_path: Path) -> None:
    opening, may_open = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def open_slowly() -> AsyncIterator[Replica]:
        opening.set()
        await may_open.wait()
        yield ScriptedReplica()

    running = asyncio.create_task(serve(Settings(port=0, data_dir=tmp_path), open_slowly, nobody))
    await opening.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(3):
        await asyncio.sleep(0)
    may_open.set()
    await running


@pytest.mark.parametrize("first", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["fresh", "kept alive"])
@pytest.mark.parametrize("part", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: "], ids=["silent", "half a head"])
async def test_a_connection_without_a_whole_request_is_closed(tmp_path: Path, first: bytes, part: bytes) -> None:
    url, on_ready = first_url()
    serving = serve(Settings(port=0, data_dir=tmp_path), ready(ScriptedReplica()), on_ready, keepalive_seconds=0.5)
    running = asyncio.create_task(serving)
    reader, writer = await asyncio.open_connection("127.0.0.1", int((await url).rpartition(":")[2]))
    async with asyncio.timeout(20):
        if first:
            writer.write(first)
            assert (await reader.readline()).split()[1] == b"200"
        writer.write(part)
        closed = asyncio.create_task(reader.read())
        while not closed.done():
            if part:
                writer.write(b"x")  # a byte now and then does not keep it open
            await asyncio.wait({closed}, timeout=0.05)
    assert b"HTTP/1.1" not in closed.result()
    writer.close()
    os.kill(os.getpid(), signal.SIGTERM)
    await running


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings = Settings(port=other.getsockname()[1], data_dir=tmp_path)
        with pytest.raises(AddressError, match=f"127.0.0.1:{settings.port}"):
            await serve(settings, ready(ScriptedReplica()), nobody)


async def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[Replica]:
        raise CheckpointError("no model")
        yield

    with pytest.raises(CheckpointError, match="no model"):
        await serve(Settings(port=0, data_dir=tmp_path), broken, nobody)


async def test_exposed_without_keys(tmp_path: Path) -> None:
    with pytest.raises(ExposureError):
        await serve(Settings(host="0.0.0.0", port=0, data_dir=tmp_path), ready(ScriptedReplica()), nobody)


async def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="file"):
        await serve(Settings(port=0, data_dir=tmp_path / "file" / "data"), ready(ScriptedReplica()), nobody)
