"""A replica as a process of its own: from its settings until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from instgenie.orders import Replica
from instgenie.replica.replica_settings import ReplicaSettings
from instgenie.replica.service import ReplicaService
from instgenie.tracing import open_trace
from instgenie_cache import RecordStore
from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.stores.build_store import StoreSettings, build_store
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.messages import ArenaUse

if TYPE_CHECKING:
    from instgenie.checkpoint import Checkpoint
    from instgenie.replica.local_replica import LocalReplica

log = logging.getLogger(__name__)


class _Ending:
    """The first signal ends it in order, the second one at once; so does the first while nothing is served yet."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.is_serving = False
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)

    def _end(self) -> None:
        if not self.is_serving:  # a model that is being loaded cannot be stopped otherwise
            log.info("ended before it was ready")
            os._exit(0)
        if self.asked.is_set():
            log.warning("ended by a second signal: edits in progress are lost")
            os._exit(1)
        self.asked.set()


OpenReplica = Callable[[ReplicaSettings], AbstractAsyncContextManager[Replica]]


async def run_replica(
    settings: ReplicaSettings, ready: Callable[[Sequence[Address]], None], open_it: OpenReplica | None = None
) -> None:
    """Serve until SIGTERM or SIGINT; then finish what was taken, and give front ends time to fetch it.

    Args:
        ready: called with the addresses once front ends are taken.
        open_it: makes the replica; None is `open_replica`.

    Raises:
        CheckpointError: the folder holds no usable model.
        CacheError: an address cannot be had.
        ParameterError: the trace file cannot be written, or the device is not there.
        ReplicaError: the replica can go on no more.
    """
    ending = _Ending()
    async with AsyncExitStack() as stack:
        if settings.trace is not None:
            stack.enter_context(open_trace(settings.trace, f"replica {os.getpid()}"))
        replica = await stack.enter_async_context((open_it or open_replica)(settings))
        secrets = None if settings.secret is None else {settings.secret.name: settings.secret}
        service = ReplicaService(
            replica, settings.listen, limits=settings.limits, secrets=secrets, socket_mode=settings.socket_mode
        )
        try:
            await service.start()
            ending.is_serving = True
            ready(service.addresses)
            await _first(ending.asked.wait(), _watched(replica))
            log.info("ending: edits in progress are finished")
            await service.drain()
            left = await service.wait_fetched(settings.grace_seconds)
            if left:
                log.warning("%d results were not fetched in %g s and are lost", left, settings.grace_seconds)
        finally:
            await service.close()


@runtime_checkable
class _Watchable(Protocol):
    async def watch(self) -> None:
        """See `LocalReplica`."""
        ...


async def _watched(replica: Replica) -> None:
    """Wait until the replica fails, if it can tell."""
    if isinstance(replica, _Watchable):
        await replica.watch()
    await asyncio.Event().wait()


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait until one of them is done, and raise what it raised."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    for task in done:
        task.result()


@asynccontextmanager
async def open_replica(settings: ReplicaSettings) -> AsyncIterator[LocalReplica]:
    """The model on its device, with its records, calibrated.

    Raises:
        CheckpointError: the folder holds no usable model.
        ParameterError: the device is not there.
    """
    from instgenie.load_model import load_model

    checkpoint = await asyncio.to_thread(load_model, settings.model, settings.dtype, settings.threads, settings.device)
    # After the model, since how much memory is free decides how much is for records.
    store = await asyncio.to_thread(_open_store, settings, checkpoint.forward.device.type == "cuda")
    try:
        replica = await asyncio.to_thread(_replica, checkpoint, store, settings)
        try:
            await replica.calibrate()
            card = replica.model
            log.info("model %s (%s) as %s on %s", card.name, card.revision, card.dtype, card.device)
            yield replica
        finally:
            await replica.close()
    finally:
        await asyncio.to_thread(store.close)


def _open_store(settings: ReplicaSettings, is_cuda: bool) -> RecordStore:
    if settings.cache is None:
        from instgenie.free_memory import available_memory_bytes

        host_bytes = available_memory_bytes() // 2 if settings.host_bytes is None else settings.host_bytes
        return build_store(StoreSettings(host_bytes=host_bytes, host_policy=settings.policy))
    arena: ArenaUse = "write" if is_cuda else "read"  # to page-lock memory, it has to be writable
    store = ServiceStore.open(
        settings.cache, client=f"replica {os.getpid()}", arena=arena, secret=settings.cache_secret
    )
    if not store.is_connected:
        log.warning("no cache service at %s: nothing is cached until there is one", settings.cache)
    return store


def _replica(checkpoint: Checkpoint, store: RecordStore, settings: ReplicaSettings) -> LocalReplica:
    from instgenie.replica.build_replica import build_replica

    return build_replica(
        checkpoint,
        store,
        codec=settings.codec,
        drift=settings.drift,
        device_bytes=settings.device_bytes,
        policy=settings.policy,
        plans=settings.plan == "auto",
        batch_edits=settings.batch_edits,
        batch_tokens=settings.batch_tokens,
        compiles=settings.compile,
    )
