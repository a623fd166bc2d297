"""Running a server until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web

from instgenie_server.access.exposure import check_exposure
from instgenie_server.access.key_file import KeyFile
from instgenie_server.app import OpenReplica, make_app
from instgenie_server.app_keys import IN_FLIGHT, METRICS
from instgenie_server.fleet.awaited import FirstReplicas
from instgenie_server.heap import keep_freed_memory
from instgenie_server.jobs import JobStoreError, PictureFileError
from instgenie_server.logs import AccessLogger
from instgenie_server.operator_error import OperatorError
from instgenie_server.preflight import check_engine
from instgenie_server.routes.keys import ENGINE
from instgenie_server.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

SHUTDOWN_SECONDS = 15.0
# From the connection, or its last reply, until the head of the next request is complete: aiohttp's timer is not put
# off by a part of a head. More than the 60 of common proxies, which must not find a connection closed that they reuse.
KEEPALIVE_SECONDS = 75.0
WATCH_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Activity:
    """What a server does: requests being answered, predicted work that waits or runs, and edits done so far."""

    in_flight: int
    waiting_seconds: float
    edits_done: int


class AddressError(OperatorError):
    """The address cannot be listened at."""


class DataFolderError(OperatorError):
    """The data folder is another server's, or cannot be read and written."""


async def serve(
    settings: Settings,
    open_replica: OpenReplica,
    on_ready: Callable[[str], None],
    watch: Callable[[Activity], None] | None = None,
    keepalive_seconds: float = KEEPALIVE_SECONDS,
    first_replicas: FirstReplicas | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then let what runs come to its end. SIGHUP renews the replicas meanwhile.

    Args:
        on_ready: called with the server's URL once edits are taken.
        watch: called from then on, every `WATCH_SECONDS`.
        keepalive_seconds: longest that a connection may be without a complete request or its reply.
        first_replicas: knows what `open_replica` waits for.
    Raises:
        ReplicaStartError, CheckpointError: there is no replica, since the model cannot be loaded, for example.
        SettingsError: the model's folder, a device or the trace file's folder is not there.
        ExposureError: the server would be open to the network without keys.
        AddressError: the address is taken, or none of this machine's.
        DataFolderError: another server works on the data folder, or it cannot be written.
    """
    check_exposure(settings, KeyFile(settings.data_dir).read())
    await asyncio.to_thread(check_engine, settings.engine)
    keep_freed_memory()
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    terminals = [number for number in range(3) if os.isatty(number)]
    # A client that leaves cancels its handler, and so its edit.
    app = make_app(settings, open_replica, first_replicas)
    runner = web.AppRunner(
        app,
        access_log_class=AccessLogger,
        keepalive_timeout=keepalive_seconds,
        handler_cancellation=True,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it: whoever logs out renews nothing
        loop.add_signal_handler(signal.SIGHUP, lambda: _hang_up(app, terminals, stopped))
    listening = await _listen(settings.host, settings.port)  # before the model is loaded, which takes a while
    try:
        try:
            await runner.setup()
            for listener in listening:
                await web.SockSite(runner, listener).start()
            await _first(app[ENGINE].opened(), stopped.wait())
        except (JobStoreError, PictureFileError) as error:
            raise DataFolderError(str(error)) from error
        if not stopped.is_set():
            host, port = runner.addresses[0][:2]
            on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        if watch is not None:
            await _until(stopped, lambda: watch(activity_of(app)))
        await stopped.wait()
        log.info("stopping")
    finally:
        await runner.cleanup()
        for listener in listening:
            listener.close()


def _hang_up(app: web.Application, terminals: list[int], stopped: asyncio.Event) -> None:
    """Renew the replicas; or stop, where it was the terminal that went away.

    Args:
        terminals: of the standard streams, those that were terminals at the start.
    """
    if terminals and not any(os.isatty(number) for number in terminals):
        stopped.set()
        return
    engine = app[ENGINE].if_open
    if app[ENGINE].status != "ok" or engine is None or engine.fleet is None:
        log.warning("SIGHUP: there are no replicas to renew")
    elif not engine.fleet.renew():
        log.warning("SIGHUP: the replicas are being renewed already")


def activity_of(app: web.Application) -> Activity:
    """What the server does just now."""
    engine = app[ENGINE].engine
    return Activity(app[IN_FLIGHT].count, engine.edits.waiting_seconds(), app[METRICS].edits_done)


async def _listen(host: str, port: int) -> list[socket.socket]:
    """Sockets at all addresses of a host."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = dict.fromkeys((family, address[:2]) for family, _, _, _, address in found)
        with ExitStack() as opened:
            sockets = [
                opened.enter_context(socket.create_server(address, family=family)) for family, address in addresses
            ]
            opened.pop_all()
            return sockets
    except OSError as error:
        reason = error.strerror if error.errno is None or error.errno < 0 else os.strerror(error.errno)
        raise AddressError(f"cannot listen at {host}:{port}: {reason}") from error


async def _until(stopped: asyncio.Event, tell: Callable[[], None]) -> None:
    """Tell every `WATCH_SECONDS` until stopped."""
    while not stopped.is_set():
        tell()
        with suppress(TimeoutError):
            async with asyncio.timeout(WATCH_SECONDS):
                await stopped.wait()


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait until one of them is done, and raise what it raised."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    for task in done:
        task.result()
