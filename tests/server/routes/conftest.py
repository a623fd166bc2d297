"""Servers: one on the tiny model, and one on a replica that the test moves on by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from blockbuster import blockbuster_ctx

from instgenie.replica.local_replica import LocalReplica
from instgenie_server.settings import CacheSettings, LimitSettings, Settings
from tests.server.routes.scripted_replica import ScriptedReplica
from tests.server.routes.site import Site, ready, running_site


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors on several threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    with blockbuster_ctx("instgenie_server.routes"):
        yield


@pytest.fixture(scope="session")
def tiny_replica(tiny_builtin: Path) -> Iterator[LocalReplica]:
    """A replica of the tiny model; its records stay from test to test."""
    from instgenie.checkpoint import load_checkpoint
    from instgenie.editor import Editor
    from instgenie_cache import MemoryStore

    checkpoint = load_checkpoint(tiny_builtin, torch.float32, torch.device("cpu"))
    replica = LocalReplica(Editor(checkpoint, MemoryStore(200_000_000)), "cpu")
    yield replica
    asyncio.run(replica.close())


@pytest_asyncio.fixture
async def tiny(tiny_replica: LocalReplica, tmp_path: Path) -> AsyncIterator[Site]:
    """A server of the tiny model."""
    async with running_site(
        Settings(data_dir=tmp_path / "data", cache=CacheSettings(service=None)), ready(tiny_replica)
    ) as site:
        yield site


@pytest_asyncio.fixture
async def scripted() -> AsyncIterator[ScriptedReplica]:
    replica = ScriptedReplica()
    yield replica


@pytest_asyncio.fixture
async def site(scripted: ScriptedReplica, tmp_path: Path) -> AsyncIterator[Site]:
    """A server of the scripted replica, which runs one job at a time."""
    cache, limits = CacheSettings(service=None), LimitSettings(running_jobs=1)
    async with running_site(Settings(data_dir=tmp_path / "data", cache=cache, limits=limits), ready(scripted)) as site:
        yield site
        scripted.let_go()
