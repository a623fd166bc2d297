"""A cache service on each machine that replicas run on."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog
from ray.exceptions import RayError

from instgenie_cache.wire.address import Address
from instgenie_server.processes.child_log import relay
from instgenie_server.processes.restarts import Restarts
from instgenie_server.ray_engine.cache_actor import CacheActor
from instgenie_server.ray_engine.cluster import end_actor, nodes_of_cluster, reason_of, start_actor
from instgenie_server.record_cache.service_command import STOP_SECONDS
from instgenie_server.record_cache.store import service_address
from instgenie_server.settings import CacheSettings, LogSettings

_LOGGER = "instgenie_cache"
_ACTOR_SECONDS = 10.0  # for an actor to do what it is told, beside what its service needs

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLaunch:
    """What is run on each machine.

    Attributes:
        most_on_machine: replicas that may come to be there, each with this model in its memory.
    """

    cache: CacheSettings
    model: Path
    most_on_machine: int
    log: LogSettings


class NodeCaches:
    """Starts a service with the first replica of a machine. As an async context manager it ends them all."""

    def __init__(self, launch: CacheLaunch) -> None:
        """Nothing is started yet."""
        self._launch = launch
        self._caches: dict[str, _NodeCache] = {}

    async def on(self, node_id: str) -> Address | None:
        """Where the service of a machine is, once it is ready; None where records are in its replicas' memory."""
        settings = self._launch.cache
        if settings.service != "own" or settings.folder is None:
            return service_address(settings)
        if node_id not in self._caches:
            self._caches[node_id] = _NodeCache(self._launch, node_id)
        return await self._caches[node_id].address()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(cache.stop() for cache in self._caches.values()))


class _NodeCache:
    """The service of one machine. Where its actor ends, another one takes its place while there is the machine."""

    def __init__(self, launch: CacheLaunch, node_id: str) -> None:
        self._launch, self._node_id = launch, node_id
        self._labels = {"machine": node_id[:8]}
        self._address: Address | None = None
        self._started = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="the cache service of a machine")

    async def address(self) -> Address | None:
        """Where it is; None where it could not be started, or its machine is gone."""
        started = asyncio.create_task(self._started.wait())
        try:
            await asyncio.wait({started, self._task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            started.cancel()
        return self._address

    async def stop(self) -> None:
        """Have it keep what it holds, and end."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        restarts = Restarts(random.random)
        while True:
            began_at = time.monotonic()
            try:
                await self._run_once()
            except RayError as error:
                log.warning("the actor of a cache service is gone", reason=reason_of(error), **self._labels)
            self._started.set()  # replicas do without one rather than wait
            try:
                if not any(node.id == self._node_id for node in await nodes_of_cluster()):
                    return
            except RayError as error:
                log.warning("the cluster does not tell its machines", reason=reason_of(error), **self._labels)
            await asyncio.sleep(restarts.seconds_after(time.monotonic() - began_at))

    async def _run_once(self) -> None:
        launch = self._launch
        actor = await start_actor(CacheActor, node_id=self._node_id)
        try:
            self._address = await actor.start.remote(launch.cache, launch.model, launch.most_on_machine, launch.log)
            self._started.set()
            while True:
                relay(await actor.read.remote(), _LOGGER, self._labels)
        except asyncio.CancelledError:
            await self._stop(actor)
            raise
        finally:
            await end_actor(actor)

    async def _stop(self, actor: Any) -> None:
        try:
            async with asyncio.timeout(STOP_SECONDS + _ACTOR_SECONDS):
                for line in await actor.stop.remote():
                    relay(line, _LOGGER, self._labels)
        except (RayError, TimeoutError) as error:
            log.warning("a cache service may not have kept what it held", reason=repr(error), **self._labels)
