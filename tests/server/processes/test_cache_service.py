"""`instgenie serve` and the cache service that it starts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import select
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from instgenie_cache.tiers.verify import verify_folder
from tests.server.processes.requests import edit_form, mask_png, picture_png
from tests.server.processes.server_process import SMALL, ServerProcess, instgenie

pytestmark = pytest.mark.timeout(480)

READY = r'"process_id": (\d+), "event": "the cache service is ready"'
END_SECONDS = 60


@pytest.fixture
def folder(cache_home: Path) -> Path:
    """Where the records are."""
    return cache_home / "instgenie" / "records"


def service_of(server: ServerProcess) -> int:
    """Process of the server's newest cache service."""
    server.until(READY)
    return int(re.findall(READY, server.log())[-1])


def wait_for_end(process_id: int) -> None:
    """Wait until a process, which is no child of this one, is gone."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process_id)
        try:
            ended, _, _ = select.select([descriptor], [], [], END_SECONDS)
            assert ended, f"process {process_id} lives on"
        finally:
            os.close(descriptor)


async def edited(url: str, picture: int = 0) -> dict[str, Any]:
    """An edit by the server, as it tells of it."""
    form = edit_form(picture_png(picture), seed=1, steps=2)
    async with aiohttp.ClientSession(url) as session, session.post("/v1/images/edits", data=form) as reply:
        assert reply.status == 200, await reply.text()
        return told_by(reply)


async def hit(url: str) -> dict[str, Any]:
    """The same edit, which makes no records, once it finds some: they are written behind the reply of who makes them,
    and a service that is silent for long has none.
    """
    async with asyncio.timeout(60), aiohttp.ClientSession(url) as session:
        while True:
            form = edit_form(picture_png(0), seed=1, steps=2, cache="only")
            async with session.post("/v1/images/edits", data=form) as reply:
                if reply.status == 200:
                    return told_by(reply)
                assert (await reply.json())["error"]["code"] == "template_not_cached"


def told_by(reply: aiohttp.ClientResponse) -> dict[str, Any]:
    return {"cache": reply.headers["x-instgenie-cache"], "tier": reply.headers["x-instgenie-tier"]}


async def metrics_with(url: str, pattern: str) -> str:
    """The metrics, once they match: those of a service that takes long to tell them are left out."""
    async with asyncio.timeout(60), aiohttp.ClientSession(url) as session:
        while True:
            async with session.get("/metrics") as reply:
                page = await reply.text()
            if re.search(pattern, page):
                return page


def edited_here(model: Path, folder: Path) -> dict[str, Any]:
    """The same edit by the command line, in a process of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "picture.png").write_bytes(picture_png(0))
    (folder / "mask.png").write_bytes(mask_png())
    ran = instgenie(
        *("edit", folder / "picture.png", "--mask", folder / "mask.png", "--prompt", "a red ball"),
        *("--model", model, *SMALL, "--steps", "2", "--cache", "on", "-o", folder / "out.png", "--timings"),
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    return {"cache": report["cache"], "tier": report["tier"]}


async def test_records_outlive_the_server_and_are_shared(tiny_builtin: Path, tmp_path: Path, folder: Path) -> None:
    assert edited_here(tiny_builtin, tmp_path / "edit") == {"cache": "cold", "tier": None}
    assert edited_here(tiny_builtin, tmp_path / "edit") == {"cache": "hit", "tier": "disk"}
    with ServerProcess(tiny_builtin, tmp_path / "data", own_cache=True) as server:
        assert (await edited(server.url))["cache"] == "cold"  # of another namespace: clients and users share none
        assert edited_here(tiny_builtin, tmp_path / "edit") == {"cache": "hit", "tier": "host"}  # read at the start
        assert await hit(server.url) == {"cache": "hit", "tier": "host"}
        page = await metrics_with(server.url, r'instgenie_cache_hits_total\{tier="host"\} [2-9]')
        assert 'instgenie_edits_total{cache="hit",outcome="done",tier="host"} 1.0' in page
        service = service_of(server)
        server.signal(signal.SIGTERM)
        assert server.end() == 0, server.log()
        assert "Traceback" not in server.log()
    wait_for_end(service)
    assert verify_folder(folder).ok


async def test_a_killed_server_leaves_no_service_and_nothing_broken(
    tiny_builtin: Path, tmp_path: Path, folder: Path
) -> None:
    with ServerProcess(tiny_builtin, tmp_path, own_cache=True) as server:
        service = service_of(server)
        assert (await edited(server.url))["cache"] == "cold"
        await hit(server.url)
        server.kill()
    wait_for_end(service)
    report = verify_folder(folder)
    assert (report.ok, report.in_use) == (True, False)
    with ServerProcess(tiny_builtin, tmp_path, own_cache=True) as server:
        assert await hit(server.url) == {"cache": "hit", "tier": "host"}


async def test_a_killed_service_fails_no_edit_and_comes_back(tiny_builtin: Path, tmp_path: Path) -> None:
    with ServerProcess(tiny_builtin, tmp_path, own_cache=True) as server:
        assert (await edited(server.url))["cache"] == "cold"
        first = service_of(server)
        os.kill(first, signal.SIGKILL)
        await edited(server.url, picture=1)
        server.until(f"(?s){READY}.*{READY}")
        assert service_of(server) != first
        while (await edited(server.url, picture=2))["cache"] != "hit":  # until the replica is connected again
            pass


async def test_two_servers_share_a_service_and_the_second_takes_over(tiny_builtin: Path, tmp_path: Path) -> None:
    with (
        ServerProcess(tiny_builtin, tmp_path / "one", own_cache=True) as one,
        ServerProcess(tiny_builtin, tmp_path / "two", own_cache=True) as two,
    ):
        two.until("using the cache service that runs already")
        await edited(one.url)
        assert await hit(two.url) == {"cache": "hit", "tier": "host"}
        one.kill()
        assert service_of(two)


async def test_a_server_without_a_service_serves_from_memory(tiny_builtin: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    broken = ("--set", f"cache.folder={tmp_path}/file/records")
    with ServerProcess(tiny_builtin, tmp_path / "data", *broken, own_cache=True) as server:
        server.until("no cache service could be started")
        await edited(server.url)
        assert await hit(server.url) == {"cache": "hit", "tier": "host"}
