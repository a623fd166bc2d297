"""The cache service's own metrics, for the server's page of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from instgenie_cache.client.cache_client import CacheClient
from instgenie_cache.errors import CacheError
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.handshake import SharedSecret
from instgenie_cache.wire.messages import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

MAX_AGE_SECONDS = 1.0
DEADLINE_SECONDS = 1.0
_PREFIX = "instgenie_cache_"


class ServiceExposition:
    """Asks a service for its metrics, at most once a second, over a connection of its own.

    Belongs to one event loop.
    """

    def __init__(
        self, address: Address, secret: SharedSecret | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Nothing is connected yet."""
        self._address, self._secret, self._now = address, secret, now
        self._client: CacheClient | None = None
        self._lock = asyncio.Lock()
        self._read_at: float | None = None
        self._text = b""

    async def text(self) -> bytes:
        """Its own families in Prometheus' text format; empty where it cannot be asked."""
        async with self._lock:
            if self._read_at is None or self._now() - self._read_at > MAX_AGE_SECONDS:
                self._text = await self._ask()
                self._read_at = self._now()
            return self._text

    async def close(self) -> None:
        """Let go of the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _ask(self) -> bytes:
        try:
            if self._client is None or self._client.is_closed:
                self._client = await CacheClient.connect(
                    self._address,
                    client="metrics of instgenie serve",
                    secret=self._secret,
                    timeout_seconds=DEADLINE_SECONDS,
                )
            _, payload = await self._client.request(Metrics(), deadline_seconds=DEADLINE_SECONDS)
        except CacheError as error:
            log.debug("no metrics of the cache service", reason=str(error))
            await self.close()
            return b""
        return own_families(b"".join(payload))


def own_families(exposition: bytes) -> bytes:
    """The families of the cache: those of its process have the same names as the server's."""
    kept = []
    for line in exposition.splitlines(keepends=True):
        name = line.split()[2:3] if line.startswith(b"#") else [line]
        if name and name[0].startswith(_PREFIX.encode()):
            kept.append(line)
    return b"".join(kept)
