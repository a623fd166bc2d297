"""The cache service in a thread of the test's process, for clients that are not asynchronous."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instgenie_cache.service.cache_service import CacheService
from instgenie_cache.service.service_process import store_settings
from instgenie_cache.service.service_settings import ServiceSettings
from instgenie_cache.stores.build_store import build_store
from instgenie_cache.stores.tiered_store import TieredStore
from instgenie_cache.wire.address import Address


@dataclass(frozen=True, slots=True)
class RunningService:
    """Where it listens, and its store."""

    addresses: list[Address]
    store: TieredStore


@contextmanager
def running_service(folder: Path, **settings: Any) -> Iterator[RunningService]:
    """Serve until the block ends."""
    parsed = ServiceSettings.model_validate({"folder": folder, "host_bytes": 128 << 20, "disk_bytes": 0, **settings})
    store = build_store(store_settings(parsed))
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, list[Address]]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        service = CacheService(store, parsed)
        await service.start()
        started.set_result((asyncio.get_running_loop(), stop, service.addresses))
        await stop.wait()
        await service.close()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, name="cache service of a test")
    thread.start()
    try:
        loop, stop, addresses = started.result(20)
        try:
            yield RunningService(addresses, store)
        finally:
            loop.call_soon_threadsafe(stop.set)
    finally:
        thread.join(20)
        store.close()
