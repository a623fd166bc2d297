"""Keeps a child process running for as long as the server does."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import structlog

from instgenie_server.processes.child_command import ChildCommand
from instgenie_server.processes.child_log import read_lines, relay
from instgenie_server.processes.restarts import Restarts

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

READY_LINE = "serving at "
MAX_LINE_CHARS = 500  # of the last line, which says why it ended

Found = Callable[[], None]


@dataclass(slots=True, eq=False)
class Life:
    """One run of a process, from when it was ready.

    Attributes:
        process_id: None where the process is somebody else's.
        ended: set when it has ended, and `reason` says how.
    """

    process_id: int | None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str = ""


class KeptProcess:
    """A child that is started again when it ends, at growing intervals, and told to end when the server does.

    As an async context manager it ends the child at the end of the block.

    Attributes:
        process_id: of the child, ready or not; None while there is none.
        lives: how often it became ready.
        last_line: of what it wrote to its standard error.
    """

    def __init__(
        self,
        command: ChildCommand,
        restarts: Restarts | None = None,
        follow: Callable[[Found], Awaitable[bool]] | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            follow: awaited before each start: False at once where nobody else does the child's work; else it calls
                what it is given, and returns True when that one is gone.
        """
        self.process_id: int | None = None
        self.lives = 0
        self.last_line = ""
        self._command = command
        self._restarts = restarts or Restarts(random.random)
        self._follow = follow
        self._served = asyncio.Event()  # at least once, by whomever
        self._failed_starts = 0  # before that
        self._process: asyncio.subprocess.Process | None = None
        self._life: Life | None = None
        self._life_began = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> bool:
        """Whether it is ready, or somebody else is. False where it could not be started: none is tried any more."""
        self._task = asyncio.create_task(self._run(), name=self._command.name)
        served = asyncio.create_task(self._served.wait())
        try:
            await asyncio.wait({self._task, served}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            served.cancel()
        return self._served.is_set()

    async def ready(self) -> Life:
        """Its life, once it is ready."""
        while self._life is None:
            self._life_began.clear()
            await self._life_began.wait()
        return self._life

    def give_up(self, life: Life) -> None:
        """Kill a process that is there and of no use; another one takes its place. One that is gone is let be."""
        if self._life is life and self._process is not None:
            log.warning(self._event("does not answer: it is killed"), process_id=self.process_id)
            with suppress(ProcessLookupError):
                self._process.kill()

    async def stop(self) -> None:
        """End the child, and wait until it is gone. A second time it does nothing."""
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
            if self._follow is not None and await self._follow(self._served.set):
                continue
            started = time.monotonic()
            code: int | None = None
            try:
                code = await self._run_once()
            except OSError as error:  # no process can be made
                self.last_line = str(error)
            wait_seconds = self._restarts.seconds_after(time.monotonic() - started)
            log.warning(self._event("ended"), code=code, last_line=self.last_line)
            if not self._served.is_set():
                self._failed_starts += 1
                if code in self._command.final_codes or self._failed_starts >= self._command.attempts:
                    return
            await asyncio.sleep(wait_seconds)

    async def _run_once(self) -> int:
        """Run the child until it ends: its exit code."""
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
        self._process, self.process_id = process, process.pid
        readers = (
            asyncio.create_task(read_lines(process.stdout, self._heard)),
            asyncio.create_task(read_lines(process.stderr, self._logged)),
        )
        ready_seconds = self._command.ready_seconds
        too_slow = asyncio.get_running_loop().call_later(ready_seconds, self._kill_unready, process)
        reason = "it was told to end"
        try:
            code = await process.wait()
            reason = f"its process ended by signal {-code}" if code < 0 else f"its process ended with code {code}"
        finally:
            too_slow.cancel()
            self._end_life(reason)  # first: who waits for its answers waits in vain
            await self._end(process)
            await asyncio.gather(*readers)
            self._process = self.process_id = None
        return code

    def _heard(self, line: str) -> None:
        if line.startswith(READY_LINE) and self._life is None and self.process_id is not None:
            address = line.removeprefix(READY_LINE).strip()
            log.info(self._event("is ready"), address=address, process_id=self.process_id)
            self.lives += 1
            self._life = Life(self.process_id)
            self._life_began.set()
            self._served.set()

    def _logged(self, line: str) -> None:
        self.last_line = line[:MAX_LINE_CHARS] or self.last_line
        relay(line, self._command.logger)

    def _event(self, what: str) -> str:
        return f"the {self._command.name} {what}"

    def _end_life(self, reason: str) -> None:
        life, self._life = self._life, None
        if life is not None:
            life.reason = reason
            life.ended.set()

    def _kill_unready(self, process: asyncio.subprocess.Process) -> None:
        if self._life is None:
            after_seconds = self._command.ready_seconds
            log.warning(self._event("is not ready: it is ended"), after_seconds=after_seconds)
            with suppress(ProcessLookupError):
                process.kill()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Ask a process to end, and kill it where it does not."""
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(self._command.stop_seconds):
                    await process.wait()
            except TimeoutError:
                after_seconds = self._command.stop_seconds
                log.warning(self._event("does not end: it is killed"), after_seconds=after_seconds)
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
