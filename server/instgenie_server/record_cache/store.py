"""The store of records that a server's settings ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import structlog

from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.default_folder import default_disk_bytes
from instgenie_cache.open_store import socket_of
from instgenie_cache.stores.build_store import StoreSettings, build_store
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.handshake import SharedSecret
from instgenie_server.record_cache.service_command import ServiceCommand
from instgenie_server.record_cache.supervisor import CacheSupervisor

if TYPE_CHECKING:
    from instgenie_cache import RecordStore
    from instgenie_cache.wire.messages import ArenaUse
    from instgenie_server.settings import CacheSettings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

CLIENT = "instgenie serve"
MIN_HOST_BYTES = 2 << 20  # a page of the arena: a service takes no less

Store = TypeVar("Store", bound="RecordStore")


@asynccontextmanager
async def open_record_store(
    settings: CacheSettings,
    arena: ArenaUse = "read",
    free_bytes: Callable[[], int] | None = None,
    log_level: str = "info",
) -> AsyncIterator[RecordStore]:
    """A store, and the service behind it where that is the server's own. It is closed at the end, then the service.

    A service that cannot be started is no error: records are kept in this process's memory, and it is logged. One that
    cannot be reached is neither: everything is a miss until it can.

    Args:
        arena: how the service's memory is mapped.
        free_bytes: memory that can be taken; by default, of this machine.
        log_level: of the service.
    """
    from instgenie.host import available_memory_bytes

    host_bytes = settings.host_bytes
    if host_bytes is None:
        host_bytes = (free_bytes or available_memory_bytes)() // 2
    address = service_address(settings)
    if address is None:
        async with _closed_at_end(await asyncio.to_thread(_in_memory, settings, host_bytes)) as store:
            yield store
        return
    if settings.service != "own":
        async with _closed_at_end(await asyncio.to_thread(_of_service, address, arena, secret_of(settings))) as store:
            if not store.is_connected:
                log.warning("the cache service cannot be reached: nothing is cached until it can", address=str(address))
            yield store
        return
    assert settings.folder is not None
    command = _command(settings, settings.folder, host_bytes, log_level)
    async with CacheSupervisor(command) as supervisor:
        if await supervisor.start():
            async with _closed_at_end(await asyncio.to_thread(_of_service, address, arena, None)) as store:
                yield store
            return
        log.warning("no cache service could be started: records are kept in memory alone", folder=str(settings.folder))
        async with _closed_at_end(await asyncio.to_thread(_in_memory, settings, host_bytes)) as store:
            yield store


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


@asynccontextmanager
async def _closed_at_end(store: Store) -> AsyncIterator[Store]:
    try:
        yield store
    finally:
        await asyncio.to_thread(store.close)


def _in_memory(settings: CacheSettings, host_bytes: int) -> RecordStore:
    return build_store(StoreSettings(host_bytes=host_bytes, host_policy=settings.policy))


def _of_service(address: Address, arena: ArenaUse, secret: SharedSecret | None) -> ServiceStore:
    return ServiceStore.open(address, client=CLIENT, arena=arena, secret=secret)


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
