"""Replicas that somebody else started, at addresses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from instgenie.replica.remote_replica import RemoteReplica
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.handshake import SharedSecret
from instgenie_server.fleet.member import HERE, Expect, Member
from instgenie_server.fleet.own_members import CLIENT
from instgenie_server.processes.restarts import Restarts
from instgenie_server.replica_process.supervised_replica import Elsewhere, LinkedReplica, SupervisedReplica
from instgenie_server.same_address import canonical, is_here
from instgenie_server.settings import EngineSettings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

# Between attempts to connect. Nobody tells when a replica is there again, and an attempt costs next to nothing.
RETRY_SECONDS = 2.0
_THEIRS = ("model", "dtype", "threads", "devices", "batch_edits", "batch_tokens", "compile", "trace")


@asynccontextmanager
async def find_members(engine: EngineSettings, expect: Expect = lambda _: None) -> AsyncIterator[Sequence[Member]]:
    """Those that `engine.replica` names, once one of them answers. They go on when the block ends.

    Args:
        expect: called with all of them, before any has answered.
    """
    usual = EngineSettings()
    if ignored := [f"engine.{name}" for name in _THEIRS if getattr(engine, name) != getattr(usual, name)]:
        log.warning("settings have no effect: a replica at an address has its own", settings=ignored)
    addresses = [Address.parse(text.strip()) for text in engine.replica.split(",")]
    secret = secret_of(engine)
    async with AsyncExitStack() as stack:
        members = []
        for address in addresses:
            name = None if len(addresses) == 1 else str(address)
            pauses = Restarts(random.random, longest_seconds=RETRY_SECONDS)
            replica = SupervisedReplica(Elsewhere(), _connecting(address, secret), pauses, name=name)
            await stack.enter_async_context(replica)
            members.append(Member(str(address), _machine(address), replica))
        log.info("waiting for a replica", addresses=[str(address) for address in addresses])
        expect(members)
        starts = [asyncio.create_task(member.replica.start()) for member in members]
        try:
            await asyncio.wait(starts, return_when=asyncio.FIRST_COMPLETED)
            yield members
        finally:
            for start in starts:
                start.cancel()


def secret_of(engine: EngineSettings) -> SharedSecret | None:
    """What a replica that listens at a port asks for."""
    if engine.secret is None or engine.secret_name is None:
        return None
    return SharedSecret(engine.secret_name, engine.secret.get_secret_value().encode())


def _connecting(address: Address, secret: SharedSecret | None) -> Callable[[], Awaitable[LinkedReplica]]:
    return lambda: RemoteReplica.connect(address, client=CLIENT, secret=secret)


def _machine(address: Address) -> str:
    """Its host: replicas there are taken to share a cache service."""
    return HERE if is_here(address) else canonical(address).host
