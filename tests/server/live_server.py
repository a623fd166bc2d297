"""A server in a thread of this process, listening on a free port of loopback."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from aiohttp import web

from instgenie_server.app import OpenReplica, make_app
from instgenie_server.local_engine import open_local_replica
from instgenie_server.routes.keys import ENGINE
from instgenie_server.settings import CacheSettings, EngineSettings, Settings

START_SECONDS = 60.0


@contextmanager
def live_server(settings: Settings, open_replica: OpenReplica) -> Iterator[str]:
    """The server's URL, once it takes edits."""
    started: Future[str] = Future()
    stopping = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(settings, open_replica, started, stopping)))
    thread.start()
    try:
        yield started.result(START_SECONDS)
    finally:
        stopping.set()
        thread.join()


def tiny_server(model: Path, data_dir: Path) -> AbstractContextManager[str]:
    """A server of the tiny model, on one thread, with its records in memory."""
    engine, cache = EngineSettings(model=model, dtype="float32", threads=1), CacheSettings(service=None)
    settings = Settings(data_dir=data_dir, engine=engine, cache=cache)
    return live_server(settings, lambda: open_local_replica(engine, cache))


async def _serve(
    settings: Settings, open_replica: OpenReplica, started: Future[str], stopping: threading.Event
) -> None:
    app = make_app(settings, open_replica)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=5)
    try:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await app[ENGINE].opened()
        started.set_result(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await asyncio.to_thread(stopping.wait)
    except BaseException as error:
        if not started.done():
            started.set_exception(error)
        raise
    finally:
        await runner.cleanup()
