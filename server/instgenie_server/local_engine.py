"""The engine in the server's own process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from instgenie.orders import Replica
from instgenie.tracing import open_trace
from instgenie_server.record_cache.store import open_record_store
from instgenie_server.settings import CacheSettings, EngineSettings

if TYPE_CHECKING:
    from instgenie.checkpoint import Checkpoint
    from instgenie.replica.local_replica import LocalReplica
    from instgenie_cache import RecordStore
    from instgenie_cache.wire.messages import ArenaUse

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@asynccontextmanager
async def open_local_replica(
    engine: EngineSettings, cache: CacheSettings, log_level: str = "info"
) -> AsyncIterator[Replica]:
    """A replica in this process, loaded and calibrated, with the store of records that is asked for.

    Args:
        log_level: of the cache service, where the replica has one of its own.
    Raises:
        CheckpointError: the folder holds no usable model.
        ParameterError: the trace file cannot be written, or there is no such device.
    """
    from instgenie.load_model import load_model

    named = engine.devices[0] if engine.devices else None
    checkpoint = await asyncio.to_thread(load_model, engine.model, engine.dtype, engine.threads, named)
    device = checkpoint.forward.device
    arena: ArenaUse = "write" if device.type == "cuda" else "read"  # to page-lock memory, it has to be writable
    # After the model, since how much memory is free decides how much is for records.
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_record_store(cache, arena, log_level=log_level))
        if engine.trace is not None:
            stack.enter_context(open_trace(engine.trace, "instgenie serve"))
        replica = await asyncio.to_thread(_replica, checkpoint, store, engine, cache)
        stack.push_async_callback(replica.close)
        await replica.calibrate()
        card = replica.model
        log.info("model loaded", model=card.name, revision=card.revision, dtype=card.dtype, device=card.device)
        yield replica


def _replica(checkpoint: Checkpoint, store: RecordStore, engine: EngineSettings, cache: CacheSettings) -> LocalReplica:
    from instgenie.replica.build_replica import build_replica

    return build_replica(
        checkpoint,
        store,
        codec=cache.codec,
        drift=cache.drift,
        device_bytes=cache.device_bytes,
        policy=cache.policy,
        plans=cache.plan == "auto",
        batch_edits=engine.batch_edits,
        batch_tokens=engine.batch_tokens,
        compiles=engine.compile,
    )
