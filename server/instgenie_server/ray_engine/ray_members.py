"""The replicas of a fleet on a Ray cluster, where Ray is installed."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

import instgenie
from instgenie_server.fleet.kept_members import KeptMember, kept_members
from instgenie_server.fleet.member import Expect, Member
from instgenie_server.ray_engine.cluster import RayEngineError, nodes_of_cluster, open_cluster
from instgenie_server.ray_engine.node_caches import CacheLaunch, NodeCaches
from instgenie_server.ray_engine.placement import Placement, place
from instgenie_server.ray_engine.ray_replica import RayReplica
from instgenie_server.ray_engine.replica_actor import ReplicaLaunch
from instgenie_server.replica_process.replica_command import Place
from instgenie_server.settings import CacheSettings, EngineSettings, LogSettings

_SECRET_BYTES = 32

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@asynccontextmanager
async def ray_members(
    engine: EngineSettings, cache: CacheSettings, log_level: str, expect: Expect
) -> AsyncIterator[Sequence[Member]]:
    """See `open_ray_members`."""
    ignored = [f"engine.{name}" for name in ("trace", "devices") if getattr(engine, name) is not None]
    if ignored:
        log.warning("settings have no effect on a Ray cluster", settings=ignored)
    async with open_cluster(engine.ray_address) as is_own:
        nodes = await nodes_of_cluster()
        placement = place(nodes, engine.replicas, engine.ray_cpus, engine.ray_gpus)
        room = sum(placement.most_on(node) for node in nodes)
        if is_own and room < placement.replicas:
            raise RayEngineError(_too_small(placement, room))
        if not room:
            log.warning("no machine of the cluster has room yet, and replicas are sized by those that are there now")
        most_on_machine = max((placement.most_on(node) for node in nodes), default=0) or 1
        model = engine.model or Path(instgenie.__file__).parent / "builtin"
        log_settings = LogSettings.model_validate({"level": log_level, "format": "json"})
        cache_launch = CacheLaunch(cache=cache, model=model, most_on_machine=most_on_machine, log=log_settings)
        launch = ReplicaLaunch(
            engine=engine.model_copy(update={"secret": None}),  # it is of no use there
            cache=cache,
            place=Place(device="cuda" if placement.gpus else "cpu", threads=engine.threads or placement.cpus),
            secret=secrets.token_hex(_SECRET_BYTES).encode(),
            most_on_machine=most_on_machine,
            log_level=log_level,
        )
        async with NodeCaches(cache_launch) as caches:
            replicas = [RayReplica(str(i + 1), launch, placement, caches) for i in range(placement.replicas)]
            expect([replica.member for replica in replicas])
            async with kept_members([KeptMember(replica.member, replica.process) for replica in replicas]) as members:
                yield members


def _too_small(placement: Placement, room: int) -> str:
    each = f"{placement.cpus} CPUs" + (f" and {placement.gpus} GPU" if placement.gpus else "")
    return f"engine.replicas: this machine has room for {room} of {placement.replicas} replicas with {each} each"
