"""200 clients at once: everyone gets an answer, refusals say when to come back, memory stays where it is."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import aiohttp
import pytest

from tests.server.processes.fuzz import logged_failures
from tests.server.processes.load import load, resident_bytes
from tests.server.processes.requests import metric
from tests.server.processes.server_process import ServerProcess

CLIENTS = 200
REQUESTS = 2000
MAX_GROWTH_BYTES = 24_000_000  # of a second load like the first one; 0 to 5 MB were seen
CACHE_BYTES = 20_000_000


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_load(tiny_builtin: Path, tmp_path: Path) -> None:
    limits = ("--set", f"cache.host_bytes={CACHE_BYTES}", "--set", "retention.bytes=1000000")
    with ServerProcess(tiny_builtin, tmp_path, *limits, "--set", "retention.sweep_seconds=2") as server:
        sizes = []
        for number in range(3):
            tally = await load(server.url, CLIENTS, REQUESTS, seed=number)
            assert tally.problems == []
            assert tally.total() >= REQUESTS
            sizes.append(resident_bytes(server.process.pid))
        assert sizes[2] - sizes[1] < MAX_GROWTH_BYTES, sizes
        assert logged_failures(server) == []
        async with aiohttp.ClientSession(server.url) as session:
            async with asyncio.timeout(10):  # clients that have gone are noticed a little later
                while await metric(session, "instgenie_http_in_flight"):
                    pass
                while await metric(session, "instgenie_queue_seconds") >= 0.001:
                    pass


@pytest.mark.timeout(240)
async def test_refusals_when_too_much_waits(tiny_builtin: Path, tmp_path: Path) -> None:
    """With room for a moment's work, most of 50 clients are refused, and no one waits for nothing."""
    with ServerProcess(tiny_builtin, tmp_path, "--set", "limits.queue_seconds=0.05") as server:
        tally = await load(server.url, clients=50, requests=300, seed=0)
    assert tally.problems == []
    assert any(re.fullmatch(r"(sync|job|streamed) 429", seen) for seen in tally.statuses), tally.statuses
    assert any(re.fullmatch(r"(sync|job|streamed) 20[02]", seen) for seen in tally.statuses), tally.statuses
