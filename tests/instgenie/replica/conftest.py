"""A scripted replica, its service at a Unix socket, and a front end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from instgenie.replica.remote_replica import RemoteReplica, RemoteSettings
from instgenie.replica.service import ReplicaService
from instgenie_cache.wire.address import Address
from tests.instgenie.replica.scripted_replica import ScriptedReplica

QUICK = RemoteSettings(reconnect_seconds=5.0, retry_max_seconds=0.05)


@pytest.fixture
def address(tmp_path: Path) -> Address:
    return Address(path=str(tmp_path / "replica.sock"))


@pytest_asyncio.fixture
async def scripted() -> ScriptedReplica:
    return ScriptedReplica()


@pytest_asyncio.fixture
async def service(scripted: ScriptedReplica, address: Address) -> AsyncIterator[ReplicaService]:
    service = ReplicaService(scripted, [address])
    await service.start()
    yield service
    await service.close()


@pytest_asyncio.fixture
async def remote(service: ReplicaService) -> AsyncIterator[RemoteReplica]:
    remote = await RemoteReplica.connect(service.addresses[0], client="test", settings=QUICK)
    yield remote
    await remote.close()
