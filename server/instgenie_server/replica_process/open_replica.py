"""The replica that a server's settings ask for: its own process, somebody else's, or one in the server's process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

import instgenie
from instgenie.orders import Replica
from instgenie.replica.remote_replica import RemoteReplica
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.handshake import SharedSecret
from instgenie_server.local_engine import open_local_replica
from instgenie_server.operator_error import OperatorError
from instgenie_server.processes.kept_process import KeptProcess
from instgenie_server.record_cache.store import memory_for_records, running_service
from instgenie_server.replica_process.replica_command import ReplicaCommand
from instgenie_server.replica_process.runtime_folder import runtime_folder
from instgenie_server.replica_process.supervised_replica import Elsewhere, SupervisedReplica
from instgenie_server.settings import CacheSettings, EngineSettings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

CLIENT = "instgenie serve"
_WEIGHTS = ("*.safetensors", "*.bin")


class ReplicaStartError(OperatorError):
    """The replica's process ended before it was ready; the message is the last that it said."""


@asynccontextmanager
async def open_replica(engine: EngineSettings, cache: CacheSettings, log_level: str = "info") -> AsyncIterator[Replica]:
    """A replica that is loaded and calibrated. It is let go of at the end, and ended where it is the server's own.

    Args:
        log_level: of what is started for it.
    Raises:
        ReplicaStartError: the server's own process cannot be started, since its model cannot be loaded, for example.
        CheckpointError: the model of one in this process cannot be loaded.
    """
    if engine.replica == "inline":
        async with open_local_replica(engine, cache, log_level) as inline:
            yield inline
    elif engine.replica == "own":
        async with _own_replica(engine, cache, log_level) as own:
            yield own
    else:
        if engine.trace is not None:
            log.warning("engine.trace has no effect: what a replica at an address notes is its own setting")
        async with _replica_at(Address.parse(engine.replica), secret_of(engine)) as other:
            yield other


def secret_of(engine: EngineSettings) -> SharedSecret | None:
    """What a replica that listens at a port asks for."""
    if engine.secret is None or engine.secret_name is None:
        return None
    return SharedSecret(engine.secret_name, engine.secret.get_secret_value().encode())


@asynccontextmanager
async def _own_replica(
    engine: EngineSettings, cache: CacheSettings, log_level: str
) -> AsyncIterator[SupervisedReplica]:
    """A replica process of the server's own, and before it the cache service that the settings ask for."""
    model = engine.model or Path(instgenie.__file__).parent / "builtin"
    model_bytes = await asyncio.to_thread(weight_bytes, model)
    host_bytes = memory_for_records(cache, spoken_for_bytes=model_bytes)
    with runtime_folder() as folder:
        async with running_service(cache, host_bytes, log_level) as cache_address:
            command = ReplicaCommand(
                folder=folder,
                engine=engine,
                cache=cache,
                cache_address=cache_address,
                host_bytes=host_bytes,
                log_level=log_level,
            )
            child = await asyncio.to_thread(command.child)
            async with KeptProcess(child) as process:
                if not await process.start():
                    raise ReplicaStartError(f"replica: {process.last_line.removeprefix('error: ')}")
                async with SupervisedReplica(process, lambda: _connect(command.address, None)) as replica:
                    await replica.start()
                    yield replica


@asynccontextmanager
async def _replica_at(address: Address, secret: SharedSecret | None) -> AsyncIterator[SupervisedReplica]:
    """Somebody else's replica, once it answers."""
    async with SupervisedReplica(Elsewhere(), lambda: _connect(address, secret)) as replica:
        log.info("waiting for the replica", address=str(address))
        await replica.start()
        yield replica


async def _connect(address: Address, secret: SharedSecret | None) -> RemoteReplica:
    return await RemoteReplica.connect(address, client=CLIENT, secret=secret)


def weight_bytes(folder: Path, patterns: Iterable[str] = _WEIGHTS) -> int:
    """Size of a model folder's weights: about what they will take in memory. 0 where there is no such folder."""
    return sum(file.stat().st_size for pattern in patterns for file in folder.rglob(pattern))
