"""A cache service in this process, on the loop that runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import ByteSize

from instgenie_cache.service.cache_service import CacheService
from instgenie_cache.service.service_metrics import ServiceMetrics
from instgenie_cache.service.service_process import store_settings
from instgenie_cache.service.service_settings import ServiceSettings
from instgenie_cache.stores.build_store import build_store

HOST_BYTES = 8 << 20


@asynccontextmanager
async def running_service(folder: Path) -> AsyncIterator[CacheService]:
    """It works on the folder, and listens at the socket that is expected there."""
    settings = ServiceSettings(folder=folder, host_bytes=ByteSize(HOST_BYTES), disk_bytes=ByteSize(64 << 20))
    metrics = ServiceMetrics()
    store = await asyncio.to_thread(build_store, store_settings(settings), metrics)
    service = CacheService(store, settings, metrics)
    try:
        await service.start()
        yield service
    finally:
        await service.close()
        await asyncio.to_thread(store.close)
