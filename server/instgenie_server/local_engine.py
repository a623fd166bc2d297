"""The engine in the server's own process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from instgenie.orders import Replica
from instgenie_server.settings import EngineSettings

if TYPE_CHECKING:
    from instgenie.local_replica import LocalReplica

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@asynccontextmanager
async def open_local_replica(settings: EngineSettings) -> AsyncIterator[Replica]:
    """A replica on this machine's best device, loaded and calibrated.

    Raises:
        CheckpointError: the folder holds no usable model.
    """
    replica = await asyncio.to_thread(_load, settings)
    try:
        await replica.calibrate()
        card = replica.model
        log.info("model loaded", model=card.name, revision=card.revision, dtype=card.dtype, device=card.device)
        yield replica
    finally:
        await replica.close()


def _load(settings: EngineSettings) -> LocalReplica:
    from instgenie.checkpoint import BUILTIN, load_checkpoint
    from instgenie.compute_dtype import dtype_of
    from instgenie.editor import Editor
    from instgenie.host import available_memory_bytes, compute_device, quiet_libraries, set_threads
    from instgenie.local_replica import LocalReplica
    from instgenie_cache import MemoryStore

    quiet_libraries()
    if settings.threads is not None:
        set_threads(settings.threads)
    device = compute_device()
    checkpoint = load_checkpoint(settings.model or BUILTIN, dtype_of(settings.dtype, device), device)
    budget_bytes = settings.cache_bytes
    if budget_bytes is None:
        budget_bytes = available_memory_bytes() // 2
    return LocalReplica(Editor(checkpoint, MemoryStore(budget_bytes)), str(device))
