"""The replicas that a server's settings ask for, as one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from instgenie.orders import Replica
from instgenie_server.fleet.fleet_replica import FleetReplica, FleetSettings
from instgenie_server.fleet.found_members import find_members
from instgenie_server.fleet.heartbeat import HeartbeatSettings
from instgenie_server.fleet.member import Expect, Member
from instgenie_server.fleet.own_members import open_own_members
from instgenie_server.local_engine import open_local_replica
from instgenie_server.settings import CacheSettings, EngineSettings


@asynccontextmanager
async def open_replica(
    engine: EngineSettings, cache: CacheSettings, log_level: str = "info", expect: Expect = lambda _: None
) -> AsyncIterator[Replica]:
    """Replicas, one of which at least is loaded and calibrated. They are let go of at the end, and ended where they are
    the server's own.

    Args:
        log_level: of what is started for them.
        expect: called with all of them, before any is ready. One in this process is none of them.
    Raises:
        ReplicaStartError: none of the server's own can be started, since the model cannot be loaded, for example.
        CheckpointError: the model of one in this process cannot be loaded.
    """
    if engine.replica == "inline":
        async with open_local_replica(engine, cache, log_level) as inline:
            yield inline
        return
    settings = FleetSettings(
        policy=engine.balancer,
        heartbeat=HeartbeatSettings(hung_seconds=engine.hung_seconds),
        drain_seconds=engine.drain_seconds,
    )
    async with _members(engine, cache, log_level, expect) as members, FleetReplica(members, settings) as fleet:
        await fleet.presence.wait()
        yield fleet


def _members(
    engine: EngineSettings, cache: CacheSettings, log_level: str, expect: Expect
) -> AbstractAsyncContextManager[Sequence[Member]]:
    if engine.kind == "ray":
        from instgenie_server.ray_engine.open_members import open_ray_members  # ray is an extra

        return open_ray_members(engine, cache, log_level, expect)
    if engine.replica == "own":
        return open_own_members(engine, cache, log_level, expect)
    return find_members(engine, expect)
