"""Keeps a cache service running for as long as the server does."""

from __future__ import annotations

import structlog

from instgenie_cache.client.cache_client import CacheClient
from instgenie_cache.errors import CacheError
from instgenie_cache.wire.address import Address
from instgenie_server.processes.kept_process import Found, KeptProcess
from instgenie_server.processes.restarts import Restarts
from instgenie_server.record_cache.service_command import ServiceCommand

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def cache_process(command: ServiceCommand, restarts: Restarts | None = None) -> KeptProcess:
    """A service of the server's own, unless one answers at its address already: then that is used until it is gone.

    At its end a service flushes what it holds.
    """
    address = Address(path=str(command.socket))

    async def follow(found: Found) -> bool:
        """Wait while somebody else's service answers; False where none does."""
        try:
            client = await CacheClient.connect(address, client="supervisor of instgenie serve")
        except CacheError:
            return False
        log.info("using the cache service that runs already", address=str(address))
        found()
        try:
            await client.wait_closed()
        finally:
            await client.close()
        return True

    return KeptProcess(command.child(), restarts, follow)
