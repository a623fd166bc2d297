"""A service that a test starts, kills, starts again on the same folder, and asks about itself."""

from __future__ import annotations

import asyncio
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from instgenie_cache.client.cache_client import CacheClient
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.messages import List, ListReply, Metrics, Request, Sweep, SweepReply
from tests.cache.processes.cache_process import command, environment

START_SECONDS = 40  # on a busy machine
STOP_SECONDS = 40


class ServiceProgram:
    """A service on a folder. Its log goes to a file, as a pipe would fill up and make it wait."""

    def __init__(self, folder: Path, *flags: str, socket: Path | None = None) -> None:
        """Does not start it yet.

        Args:
            flags: of the command line.
            socket: where it listens, with the log beside it; by default within the folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / "service.log" if socket is None else socket.with_suffix(".log")
        self._flags = [*flags, *([] if socket is None else ["--socket", str(socket)])]
        self._process: subprocess.Popen[str] | None = None
        self.addresses: list[Address] = []

    def begin(self) -> None:
        """Start it, and do not wait until it serves."""
        assert self._process is None
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                command(self.folder, *self._flags), stdout=subprocess.PIPE, stderr=log, text=True, env=environment()
            )

    def start(self) -> None:
        """Start it, and return once it serves."""
        self.begin()
        assert self._process is not None
        line = read_line(self._process, START_SECONDS)
        if not line.startswith("serving at "):
            self.kill()
            raise AssertionError(f"the service said {line!r} instead of where it serves: {self.log_text()}")
        self.addresses = [Address.parse(text) for text in line.removeprefix("serving at ").strip().split(" and ")]

    @property
    def unix(self) -> Address:
        """Its Unix socket."""
        return self.addresses[0]

    @property
    def tcp(self) -> Address:
        """Its TCP port."""
        return self.addresses[1]

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> int:
        """End it as an administrator would; its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._end(STOP_SECONDS)

    def kill(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._end(STOP_SECONDS)

    def log_text(self) -> str:
        """The end of what it logged."""
        return self.log.read_text()[-4000:]

    def private_bytes(self) -> int:
        """Memory that it has for itself: neither the arena nor mapped files."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) << 10

    def ask(self, request: Request) -> tuple[Any, bytes]:
        """Ask over a connection of its own, which sees all namespaces."""

        async def ask() -> tuple[Any, bytes]:
            client = await CacheClient.connect(self.unix, client="test", timeout_seconds=START_SECONDS)
            try:
                reply, payload = await client.request(request, deadline_seconds=START_SECONDS)
                return reply, b"".join(payload)
            finally:
                await client.close()

        return asyncio.run(ask())

    def metric(self, name: str, *labels: str) -> float:
        """The sum of a metric's samples that have all of these labels, such as `tier="disk"`; 0 where there is none."""
        lines = self.ask(Metrics())[1].decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if re.match(rf"{name}[ {{]", line))
        return sum(float(value) for sample, _, value in samples if all(label in sample for label in labels))

    def templates(self) -> list[str]:
        """Names of all templates that clients can see."""
        names: list[str] = []
        while True:
            reply: ListReply = self.ask(List(after=names[-1] if names else ""))[0]
            names += reply.templates
            if not reply.more:
                return names

    def sweep(self) -> SweepReply:
        """Have it verify all that is on disk."""
        reply: SweepReply = self.ask(Sweep())[0]
        return reply

    def _end(self, seconds: float) -> int:
        process, self._process = self._process, None
        assert process is not None
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return process.returncode


@contextmanager
def service_program(folder: Path, *flags: str, socket: Path | None = None) -> Iterator[ServiceProgram]:
    """A service that is started; whatever becomes of it, it is gone when the block ends."""
    service = ServiceProgram(folder, *flags, socket=socket)
    try:
        service.start()
        yield service
    finally:
        service.kill()


def read_line(process: subprocess.Popen[str], seconds: float) -> str:
    """What a program says first, empty where it ends before it says anything.

    Raises:
        AssertionError: it said nothing in time.
    """
    assert process.stdout is not None
    until = time.monotonic() + seconds
    ready: Sequence[Any] = ()
    while not ready and time.monotonic() < until:
        ready = select.select([process.stdout], [], [], until - time.monotonic())[0]
    assert ready, f"a program said nothing within {seconds} s"
    return process.stdout.readline()
