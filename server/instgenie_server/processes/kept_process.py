"""Keeps a child process running for as long as the server does."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from logging import INFO, WARNING
from types import TracebackType
from typing import Protocol, Self

import structlog

from instgenie_server.processes.child_command import ChildCommand
from instgenie_server.processes.child_log import read_lines, relay
from instgenie_server.processes.restarts import Restarts

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

# For one that is not ready. It has nothing to finish, and may hear of it late: an import of torch takes seconds.
UNREADY_STOP_SECONDS = 1.0
READY_LINE = "serving at "
ERROR = "error: "  # begins the line that a program says last where it cannot go on
MAX_LINE_CHARS = 500  # of the last line, which says why it ended

Found = Callable[[], None]


class ChildProcess(Protocol):
    """A process that was launched, as `asyncio.subprocess.Process` is one."""

    @property
    def pid(self) -> int:
        """Its number."""
        ...

    @property
    def returncode(self) -> int | None:
        """Its exit code, below 0 for a signal; None while it runs."""
        ...

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        """What it writes, in which it tells that it is ready."""
        ...

    @property
    def stderr(self) -> asyncio.StreamReader | None:
        """What it writes, its log."""
        ...

    async def wait(self) -> int:
        """Wait until it has ended: its exit code."""
        ...

    def terminate(self) -> None:
        """Ask it to end."""
        ...

    def kill(self) -> None:
        """End it."""
        ...


Launch = Callable[[ChildCommand], Awaitable[ChildProcess]]


async def spawn(command: ChildCommand) -> asyncio.subprocess.Process:
    """A child of this process.

    Raises:
        OSError: none can be made.
    """
    return await asyncio.create_subprocess_exec(
        *command.arguments(),
        env=command.environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C of a terminal is for the server, which ends it last
    )


class RenewError(Exception):
    """No other process could take the place of one that was ended for it; the message says why."""


@dataclass(slots=True, eq=False)
class Life:
    """One run of a process, from when it was ready.

    Attributes:
        process_id: None where the process is somebody else's.
        address: where it said that it serves; empty where the process is somebody else's.
        ended: set when it has ended, and `reason` says how.
        is_renewed: whether it ends, or has, because another process is to take its place.
    """

    process_id: int | None
    address: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str = ""
    is_renewed: bool = False


class KeptProcess:
    """A child that is started again when it ends, at growing intervals, and told to end when the server does.

    As an async context manager it ends the child at the end of the block.

    Attributes:
        process_id: of the child, ready or not; None while there is none.
        lives: how often it became ready.
        last_line: of what it wrote to its standard error. Where it cannot be started, it is told nowhere else.
        is_hopeless: whether it could not be started in a way that would only repeat itself.
    """

    def __init__(
        self,
        command: ChildCommand,
        restarts: Restarts | None = None,
        follow: Callable[[Found], Awaitable[bool]] | None = None,
        launch: Launch = spawn,
    ) -> None:
        """Nothing is started yet.

        Args:
            follow: awaited before each start: False at once where nobody else does the child's work; else it calls
                what it is given, and returns True when that one is gone.
            launch: makes the process.
        """
        self.process_id: int | None = None
        self.lives = 0
        self.last_line = ""
        self.is_hopeless = False
        self._command = command
        self._restarts = restarts or Restarts(random.random)
        self._follow, self._launch = follow, launch
        self._log = log.bind(**command.labels)
        self._last_words: str | None = None  # why it ends, until that is told
        self._served = asyncio.Event()  # at least once, by whomever
        self._failed_starts = 0  # before that
        self._process: ChildProcess | None = None
        self._life: Life | None = None
        self._life_began = asyncio.Event()
        self._renewal: asyncio.Future[None] | None = None
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

    async def renew(self, stop_seconds: float | None = None) -> None:
        """End the child, and wait until another one is ready in its place. One that is away is waited for alone.

        Args:
            stop_seconds: to end in; then it is killed. None is that of the command.
        Raises:
            RenewError: the next one ended before it was ready. Others are tried, as ever.
        """
        assert self._renewal is None, "one renewal at a time"
        if self._task is None or self._task.done():
            raise RenewError("it could not be started, and is not tried any more")
        self._renewal = asyncio.get_running_loop().create_future()
        try:
            if self._life is not None and self._process is not None:
                self._life.is_renewed = True
                await self._end(self._process, stop_seconds)
            await self._renewal
        finally:
            self._renewal = None

    def give_up(self, life: Life) -> None:
        """Kill a process that is there and of no use; another one takes its place. One that is gone is let be."""
        if self._life is life and self._process is not None:
            self._log.warning(self._event("does not answer: it is killed"), process_id=self.process_id)
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
            started, lives = time.monotonic(), self.lives
            self._last_words = None
            code: int | None = None
            is_renewed = False
            try:
                code, is_renewed = await self._run_once()
            except OSError as error:  # no process can be made
                self.last_line = str(error)
            except asyncio.CancelledError:
                self._relay_last_words()
                raise
            except Exception as error:  # noqa: BLE001 - what launches it fails: it is tried again all the same
                self._log.exception(self._event("could not be started"))
                self.last_line = str(error)
            if self.lives == lives:
                self._fail_renewal()
            if is_renewed:
                self._relay_last_words()
                self._log.info(self._event("is renewed"))
                continue
            wait_seconds = self._restarts.seconds_after(time.monotonic() - started)
            if not self._served.is_set():
                self._failed_starts += 1
                self.is_hopeless = code in self._command.final_codes
                if self.is_hopeless:
                    return  # whoever wanted it started tells why not
            level = INFO if code == 0 else WARNING  # 0: it was told to, by somebody else
            self._log.log(level, self._event("ended"), code=code, last_line=self.last_line)
            if not self._served.is_set() and self._failed_starts >= self._command.attempts:
                return
            await asyncio.sleep(wait_seconds)

    async def _run_once(self) -> tuple[int, bool]:
        """Run the child until it ends: its exit code, and whether it was ended for another one to take its place."""
        process = await self._launch(self._command)
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
        is_renewed = False
        try:
            code = await process.wait()
            is_renewed = self._life is not None and self._life.is_renewed
            if not is_renewed:
                reason = f"its process ended by signal {-code}" if code < 0 else f"its process ended with code {code}"
        finally:
            too_slow.cancel()
            was_ready = self._life is not None
            self._end_life(reason)  # first: who waits for its answers waits in vain
            await (self._end(process) if was_ready else self._end_unready(process))
            await asyncio.gather(*readers)
            self._process = self.process_id = None
        return code, is_renewed

    def _heard(self, line: str) -> None:
        if line.startswith(READY_LINE) and self._life is None and self.process_id is not None:
            address = line.removeprefix(READY_LINE).strip()
            self._log.info(self._event("is ready"), address=address, process_id=self.process_id)
            self.lives += 1
            self._life = Life(self.process_id, address)
            self._life_began.set()
            self._served.set()
            if self._renewal is not None and not self._renewal.done():
                self._renewal.set_result(None)

    def _logged(self, line: str) -> None:
        self._relay_last_words()  # they were none
        self.last_line = line[:MAX_LINE_CHARS] or self.last_line
        if line.startswith(ERROR) and len(line) <= MAX_LINE_CHARS:
            self._last_words = line
        else:
            relay(line, self._command.logger, self._command.labels)

    def _relay_last_words(self) -> None:
        words, self._last_words = self._last_words, None
        if words is not None:
            relay(words, self._command.logger, self._command.labels)

    def _event(self, what: str) -> str:
        return f"the {self._command.name} {what}"

    def _end_life(self, reason: str) -> None:
        life, self._life = self._life, None
        if life is not None:
            life.reason = reason
            life.ended.set()

    def _fail_renewal(self) -> None:
        if self._renewal is not None and not self._renewal.done():
            self._renewal.set_exception(RenewError(self.last_line.removeprefix(ERROR)))

    def _kill_unready(self, process: ChildProcess) -> None:
        if self._life is None:
            after_seconds = self._command.ready_seconds
            self._log.warning(self._event("is not ready: it is ended"), after_seconds=after_seconds)
            with suppress(ProcessLookupError):
                process.kill()

    async def _end(self, process: ChildProcess, stop_seconds: float | None = None) -> None:
        """Ask a process to end, and kill it where it does not."""
        after_seconds = self._command.stop_seconds if stop_seconds is None else stop_seconds
        if not await _ends_within(process, after_seconds):
            self._log.warning(self._event("does not end: it is killed"), after_seconds=after_seconds)
            await _killed(process)

    async def _end_unready(self, process: ChildProcess) -> None:
        """Likewise, but without patience."""
        if not await _ends_within(process, min(UNREADY_STOP_SECONDS, self._command.stop_seconds)):
            self._log.info(self._event("was not ready yet: it is killed"))
            await _killed(process)


async def _ends_within(process: ChildProcess, seconds: float) -> bool:
    """Ask a process to end: whether it has by then."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await process.wait()
    return process.returncode is not None


async def _killed(process: ChildProcess) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()
