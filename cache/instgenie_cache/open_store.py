"""The records in a folder, for a process that is not the cache service: through the service where one runs."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.errors import CacheError
from instgenie_cache.stores.build_store import StoreSettings, build_store
from instgenie_cache.stores.store import RecordStore
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.messages import ArenaUse

log = logging.getLogger(__name__)

SOCKET_NAME = "cache.sock"


def socket_of(folder: Path) -> Path:
    """Where the service of a folder listens."""
    return folder / SOCKET_NAME


def open_store(settings: StoreSettings, client: str, arena: ArenaUse = "read") -> RecordStore:
    """A store on the folder of `settings`: its service's if one runs, else one of this process's own.

    Where another process that is no service has the folder, or it cannot be used, records are kept in memory alone: it
    is logged, and no error.

    Args:
        client: what the service calls this process in its logs.
        arena: how the service's memory is mapped.
    """
    if settings.folder is not None:
        path = socket_of(settings.folder)
        try:
            if path.is_socket():
                return ServiceStore.connect(Address.parse(str(path)), client=client, arena=arena)
        except (CacheError, OSError, ValueError) as error:
            log.debug("no cache service at %s: %s", path, error)
    try:
        return build_store(settings)
    except CacheError as error:
        log.warning("records are kept in memory alone: %s", error)
        return build_store(replace(settings, folder=None, object_url=None))
