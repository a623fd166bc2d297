"""Replicas that the server starts: a process each, and the cache service that they share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import instgenie
from instgenie.replica.remote_replica import RemoteReplica
from instgenie_server.fleet.kept_members import KeptMember, kept_members
from instgenie_server.fleet.member import HERE, Expect, Member
from instgenie_server.fleet.places import places
from instgenie_server.processes.kept_process import KeptProcess
from instgenie_server.record_cache.store import memory_for_records, running_service
from instgenie_server.replica_process.replica_command import Place, ReplicaCommand
from instgenie_server.replica_process.runtime_folder import runtime_folder
from instgenie_server.replica_process.supervised_replica import SupervisedReplica
from instgenie_server.replica_process.weight_bytes import weight_bytes
from instgenie_server.settings import CacheSettings, EngineSettings

CLIENT = "instgenie serve"


@asynccontextmanager
async def open_own_members(
    engine: EngineSettings, cache: CacheSettings, log_level: str = "info", expect: Expect = lambda _: None
) -> AsyncIterator[Sequence[Member]]:
    """Replicas of this machine, at least one of which is ready; the others are being started. All end with the block.

    Args:
        expect: called with all of them, before any is ready.
    Raises:
        ReplicaStartError: none can be started, since the model cannot be loaded, for example.
    """
    where = places(engine)
    model = engine.model or Path(instgenie.__file__).parent / "builtin"
    model_bytes = await asyncio.to_thread(weight_bytes, model)
    host_bytes = memory_for_records(cache, spoken_for_bytes=len(where) * model_bytes)
    with runtime_folder() as folder:
        async with running_service(cache, host_bytes, log_level) as cache_address:

            def command(place: Place) -> ReplicaCommand:
                return ReplicaCommand(
                    folder=folder,
                    engine=engine,
                    cache=cache,
                    cache_address=cache_address,
                    host_bytes=host_bytes if cache_address else host_bytes // len(where),
                    place=place,
                    is_alone=len(where) == 1,
                    log_level=log_level,
                )

            owns = [await asyncio.to_thread(_kept, command(place)) for place in where]
            expect([own.member for own in owns])
            async with kept_members(owns) as members:
                yield members


def _kept(command: ReplicaCommand) -> KeptMember:
    """A replica of the server's own. Writes secrets into the command's folder."""
    name, address = command.place.name, command.address
    process = KeptProcess(command.child())
    replica = SupervisedReplica(
        process, lambda: RemoteReplica.connect(address, client=CLIENT), name=None if command.is_alone else name
    )
    # Those that keep records in memory of their own have no tier in common.
    machine = HERE if command.cache_address is not None else f"{HERE} {name}"
    return KeptMember(Member(name, machine, replica, process.renew), process)
