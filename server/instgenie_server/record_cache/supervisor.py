"""Keeps a cache service running for as long as the server does."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

import structlog

from instgenie_cache.client.cache_client import CacheClient
from instgenie_cache.errors import CacheError
from instgenie_cache.wire.address import Address
from instgenie_server.record_cache.child_log import read_lines, relay
from instgenie_server.record_cache.restarts import Restarts
from instgenie_server.record_cache.service_command import ServiceCommand

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

START_ATTEMPTS = 5  # about seven seconds: as long as another process may work on the folder for one edit
READY_SECONDS = 30.0
STOP_SECONDS = 60.0  # records are flushed
_READY = "serving at "


class CacheSupervisor:
    """Runs a service of its own, unless one answers at its address already: then it waits until that one is gone.

    A service that ends is started again, at growing intervals. As an async context manager it stops the service at the
    end, which flushes what it holds.

    Attributes:
        process_id: of its own service; None while there is none.
    """

    def __init__(self, command: ServiceCommand, restarts: Restarts | None = None) -> None:
        """Nothing is started yet."""
        self.process_id: int | None = None
        self._command = command
        self._address = Address(path=str(command.socket))
        self._restarts = restarts or Restarts(random.random)
        self._answered = asyncio.Event()  # at least once
        self._is_ready = False
        self._last_line = ""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> bool:
        """Whether there is a service now. False where `START_ATTEMPTS` came to nothing: then none is tried any more."""
        self._task = asyncio.create_task(self._run(), name="cache service")
        answered = asyncio.create_task(self._answered.wait())
        await asyncio.wait({self._task, answered}, return_when=asyncio.FIRST_COMPLETED)
        answered.cancel()
        return self._answered.is_set()

    async def stop(self) -> None:
        """End its own service, and wait until it is gone. A second time it does nothing."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _run(self) -> None:
        while True:
            if await self._follow_another():
                continue
            started = time.monotonic()
            code: int | None = None
            try:
                code = await self._run_own()
            except OSError as error:  # no process can be made
                self._last_line = str(error)
            wait_seconds = self._restarts.seconds_after(time.monotonic() - started)
            log.warning("the cache service ended", code=code, last_line=self._last_line)
            if not self._answered.is_set() and self._restarts.failures >= START_ATTEMPTS:
                return
            await asyncio.sleep(wait_seconds)

    async def _follow_another(self) -> bool:
        """Wait while somebody else's service answers; False where none does."""
        try:
            client = await CacheClient.connect(self._address, client="supervisor of instgenie serve")
        except CacheError:
            return False
        log.info("using the cache service that runs already", address=str(self._address))
        self._answered.set()
        try:
            await client.wait_closed()
        finally:
            await client.close()
        return True

    async def _run_own(self) -> int:
        """Run a service until it ends: its exit code."""
        process = await asyncio.create_subprocess_exec(
            *self._command.arguments(),
            env=self._command.environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C of a terminal is for the server, which ends it last
        )
        assert process.stdout is not None
        assert process.stderr is not None
        readers = (
            asyncio.create_task(read_lines(process.stdout, self._heard)),
            asyncio.create_task(read_lines(process.stderr, self._logged)),
        )
        too_slow = asyncio.get_running_loop().call_later(READY_SECONDS, self._kill_unready, process)
        self.process_id, self._is_ready = process.pid, False
        try:
            code = await process.wait()
        finally:
            too_slow.cancel()
            await _end(process)
            await asyncio.gather(*readers)
            self.process_id = None
        return code

    def _heard(self, line: str) -> None:
        if line.startswith(_READY):
            log.info("the cache service is ready", address=str(self._address), process_id=self.process_id)
            self._is_ready = True
            self._answered.set()

    def _logged(self, line: str) -> None:
        self._last_line = line[:500] or self._last_line
        relay(line)

    def _kill_unready(self, process: asyncio.subprocess.Process) -> None:
        if not self._is_ready:
            log.warning("the cache service is not ready: it is ended", after_seconds=READY_SECONDS)
            process.kill()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask a process to end, and kill it where it does not."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            log.warning("the cache service does not end: it is killed", after_seconds=STOP_SECONDS)
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
