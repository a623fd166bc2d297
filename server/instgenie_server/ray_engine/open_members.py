"""The replicas of a fleet on a Ray cluster."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from instgenie_server.operator_error import OperatorError
from instgenie_server.ray_engine.meant_cluster import keep_to_loopback

if TYPE_CHECKING:
    from instgenie_server.fleet.member import Expect, Member
    from instgenie_server.settings import CacheSettings, EngineSettings


class NoRayError(OperatorError):
    """Ray is not installed."""


@asynccontextmanager
async def open_ray_members(
    engine: EngineSettings, cache: CacheSettings, log_level: str = "info", expect: Expect = lambda _: None
) -> AsyncIterator[Sequence[Member]]:
    """Replicas that are being started side by side, of which at least one is ready. They are ended at the end.

    Args:
        expect: called with all of them, before any is ready.
    Raises:
        NoRayError: Ray is not installed.
        RayEngineError: there is no cluster.
        ReplicaStartError: no replica could be started.
    """
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a call that comes too late must not start a cluster
    await asyncio.to_thread(keep_to_loopback, engine.ray_address)
    try:
        from instgenie_server.ray_engine.ray_members import ray_members
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise NoRayError(
            "engine.kind: ray is not installed: pip install -e '.[server,ray]' in the repository"
        ) from error
    async with ray_members(engine, cache, log_level, expect) as members:
        yield members
