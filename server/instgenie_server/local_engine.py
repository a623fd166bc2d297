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
    from instgenie.load_editor import load_editor
    from instgenie.local_replica import LocalReplica

    editor = load_editor(settings.model, settings.dtype, settings.threads, settings.cache_bytes)
    return LocalReplica(editor, str(editor.checkpoint.forward.device))
