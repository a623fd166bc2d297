"""The service as a process of its own: from its settings until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence

from instgenie_cache.errors import ServiceError
from instgenie_cache.service.cache_service import CacheService
from instgenie_cache.service.service_metrics import ServiceMetrics
from instgenie_cache.service.service_settings import ServiceSettings
from instgenie_cache.stores.build_store import StoreSettings, build_store
from instgenie_cache.stores.tiered_store import TieredStore
from instgenie_cache.tiers.disk_tier import DiskTier
from instgenie_cache.wire.address import Address

log = logging.getLogger(__name__)


async def run_service(settings: ServiceSettings, ready: Callable[[Sequence[Address]], None]) -> None:
    """Serve until SIGTERM or SIGINT, then flush. A second signal ends the process as it is.

    Args:
        ready: called with the addresses once clients are taken.

    Raises:
        CacheError: the folder, the memory or an address cannot be had.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _end, stop)
    metrics = ServiceMetrics({"host": settings.host_policy, "disk": settings.disk_policy})
    store = await asyncio.to_thread(build_store, store_settings(settings), metrics)
    try:
        _watch(metrics, store)
        close_metrics = _serve_metrics(metrics, settings.metrics_port)
        service = CacheService(store, settings, metrics)
        try:
            await service.start()
            ready(service.addresses)
            warming = asyncio.create_task(asyncio.to_thread(_warm_up, store, settings, stop.is_set))
            await stop.wait()
            log.info("ending: requests in progress are answered, then everything is flushed")
            await warming
        finally:
            await service.close()
            await asyncio.to_thread(close_metrics)
    finally:
        await asyncio.to_thread(store.close)


def _warm_up(store: TieredStore, settings: ServiceSettings, should_stop: Callable[[], bool]) -> None:
    if settings.warm_start:
        log.info("%d templates were brought into memory", store.warm_up(should_stop))


def _end(stop: asyncio.Event) -> None:
    if stop.is_set():  # somebody waited, and waits no longer; the disk tier takes it as it takes a crash
        log.warning("ended by a second signal: what is not on disk yet is lost")
        os._exit(1)
    stop.set()


def store_settings(settings: ServiceSettings) -> StoreSettings:
    """What the store is made of."""
    return StoreSettings(
        host_bytes=settings.host_bytes,
        folder=settings.folder,
        disk_bytes=settings.disk_bytes,
        host_policy=settings.host_policy,
        disk_policy=settings.disk_policy,
        sync=settings.sync,
        object_url=settings.object_url,
    )


def _serve_metrics(metrics: ServiceMetrics, port: int | None) -> Callable[[], None]:
    if port is None:
        return lambda: None
    try:
        port, close = metrics.serve(port)
    except OSError as error:
        raise ServiceError(f"metrics cannot be served at 127.0.0.1:{port}: {error.strerror or error}") from error
    log.info("metrics at http://127.0.0.1:%d/metrics", port)
    return close


def _watch(metrics: ServiceMetrics, store: TieredStore) -> None:
    """Gauges of the tiers."""
    host = store.host
    metrics.watch("host_total_bytes", "Of the arena.", lambda: host.total_bytes)
    metrics.watch("host_used_bytes", "In pages of steps.", lambda: host.used_bytes)
    metrics.watch("host_evictable_bytes", "In pages of steps that nobody uses.", lambda: host.evictable_bytes)
    metrics.watch("host_largest_free_bytes", "The longest free stretch of the arena.", lambda: host.largest_free_bytes)
    metrics.watch("templates", "That are committed.", lambda: store.stats().templates)
    metrics.watch("used_bytes", "Payload of templates.", lambda: store.stats().used_bytes)
    metrics.watch(
        "budget_bytes", "For templates in the nearest tier below the arena.", lambda: store.stats().budget_bytes
    )
    disk = store.nearest
    if isinstance(disk, DiskTier):
        metrics.watch("disk_used_bytes", "Of the disk tier's budget.", lambda: disk.used_bytes)
        metrics.watch("disk_file_bytes", "Length of LMDB's file.", lambda: disk.fill().file_bytes)
        metrics.watch("disk_map_bytes", "Of LMDB's map, which grows.", lambda: disk.fill().map_bytes)
        metrics.watch("disk_free_bytes", "Within LMDB's file.", lambda: disk.fill().free_bytes)
