"""The store of records that a server's settings ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from instgenie.free_memory import available_memory_bytes
from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.default_folder import default_disk_bytes
from instgenie_cache.open_store import socket_of
from instgenie_cache.stores.build_store import StoreSettings, build_store
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.handshake import SharedSecret
from instgenie_server.record_cache.cache_process import cache_process
from instgenie_server.record_cache.service_command import ServiceCommand

if TYPE_CHECKING:
    from instgenie_cache import RecordStore
    from instgenie_cache.wire.messages import ArenaUse
    from instgenie_server.settings import CacheSettings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

CLIENT = "instgenie serve"
MIN_HOST_BYTES = 2 << 20  # a page of the arena: a service takes no less


@asynccontextmanager
async def open_record_store(
    settings: CacheSettings,
    arena: ArenaUse = "read",
    free_bytes: Callable[[], int] = available_memory_bytes,
    log_level: str = "info",
) -> AsyncIterator[RecordStore]:
    """A store, and the service behind it where that is the server's own. It is closed at the end, then the service.

    A service that cannot be reached is no error: everything is a miss until it can.

    Args:
        arena: how the service's memory is mapped.
        free_bytes: memory that can be taken.
        log_level: of the service.
    """
    host_bytes = memory_for_records(settings, free_bytes)
    async with running_service(settings, host_bytes, log_level) as address:
        if address is None:
            store: RecordStore = await asyncio.to_thread(_in_memory, settings, host_bytes)
        else:
            store = await asyncio.to_thread(_of_service, address, arena, secret_of(settings))
        try:
            yield store
        finally:
            await asyncio.to_thread(store.close)


@asynccontextmanager
async def running_service(
    settings: CacheSettings, host_bytes: int, log_level: str = "info"
) -> AsyncIterator[Address | None]:
    """Where the cache service is, one of the server's own for the block if the settings ask for it.

    None is no service: records are in memory alone. So they are where a service cannot be started, which is logged.
    """
    address = service_address(settings)
    if address is None or settings.service != "own":
        yield address
        return
    assert settings.folder is not None
    async with cache_process(_command(settings, settings.folder, host_bytes, log_level)) as process:
        if await process.start():
            yield address
            return
        log.warning("no cache service could be started: records are kept in memory alone", folder=str(settings.folder))
        yield None


def memory_for_records(
    settings: CacheSettings, free_bytes: Callable[[], int] = available_memory_bytes, spoken_for_bytes: int = 0
) -> int:
    """Bytes of memory that records may take: by default half of what is free.

    Args:
        spoken_for_bytes: of what is free, what the model will take.
    """
    if settings.host_bytes is not None:
        return settings.host_bytes
    return max(0, free_bytes() - spoken_for_bytes) // 2


def service_address(settings: CacheSettings) -> Address | None:
    """Where the cache service is, or will be; None where records are in memory alone."""
    if settings.service is None or (settings.service == "own" and settings.folder is None):
        return None
    if settings.service != "own":
        return Address.parse(settings.service)
    assert settings.folder is not None
    return Address(path=str(socket_of(settings.folder)))


def secret_of(settings: CacheSettings) -> SharedSecret | None:
    """What a service that listens at a port asks for."""
    if settings.secret is None or settings.secret_name is None:
        return None
    return SharedSecret(settings.secret_name, settings.secret.get_secret_value().encode())


def _in_memory(settings: CacheSettings, host_bytes: int) -> RecordStore:
    return build_store(StoreSettings(host_bytes=host_bytes, host_policy=settings.policy))


def _of_service(address: Address, arena: ArenaUse, secret: SharedSecret | None) -> ServiceStore:
    store = ServiceStore.open(address, client=CLIENT, arena=arena, secret=secret)
    if not store.is_connected:
        log.warning("the cache service cannot be reached: nothing is cached until it can", address=str(address))
    return store


def _command(settings: CacheSettings, folder: Path, host_bytes: int, log_level: str) -> ServiceCommand:
    disk_bytes = default_disk_bytes(folder) if settings.disk_bytes is None else settings.disk_bytes
    return ServiceCommand(
        folder=folder,
        socket=socket_of(folder),
        host_bytes=max(host_bytes, MIN_HOST_BYTES),
        disk_bytes=disk_bytes,
        policy=settings.policy,
        log_level=log_level,
    )
