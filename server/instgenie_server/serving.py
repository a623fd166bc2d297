"""Running a server until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from aiohttp import web

from instgenie_server.access.exposure import check_exposure
from instgenie_server.access.key_file import KeyFile
from instgenie_server.app import OpenReplica, make_app
from instgenie_server.jobs import JobStoreError, PictureFileError
from instgenie_server.logs import AccessLogger
from instgenie_server.operator_error import OperatorError
from instgenie_server.routes.keys import ENGINE
from instgenie_server.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

SHUTDOWN_SECONDS = 15.0


class AddressError(OperatorError):
    """The address cannot be listened at."""


class DataFolderError(OperatorError):
    """The data folder is another server's, or cannot be read and written."""


async def serve(settings: Settings, open_replica: OpenReplica, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM, then let what runs come to its end.

    Args:
        on_ready: called with the server's URL once edits are taken.
    Raises:
        CheckpointError: the model cannot be loaded.
        ExposureError: the server would be open to the network without keys.
        AddressError: the address is taken, or none of this machine's.
        DataFolderError: another server works on the data folder, or it cannot be written.
    """
    check_exposure(settings, KeyFile(settings.data_dir).read())
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    # A client that leaves cancels its handler, and so its edit.
    app = make_app(settings, open_replica)
    runner = web.AppRunner(
        app,
        access_log_class=AccessLogger,
        handler_cancellation=True,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    try:
        await runner.setup()
        site = web.TCPSite(runner, settings.host, settings.port)
        try:
            await site.start()
        except OSError as error:
            raise AddressError(f"cannot listen at {settings.host}:{settings.port}: {error.strerror}") from error
        try:
            await _first(app[ENGINE].opened(), stopped.wait())
        except (JobStoreError, PictureFileError) as error:
            raise DataFolderError(str(error)) from error
        if not stopped.is_set():
            host, port = runner.addresses[0][:2]
            on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await stopped.wait()
        log.info("stopping")
    finally:
        await runner.cleanup()


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait until one of them is done, and raise what it raised."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    for task in done:
        task.result()
