"""A replica process for tests: `python -m instgenie.replica`, or this file, whose replica has no model.

Its edits take as many steps as they order, 10 ms each; the picture is the upload's bytes, and its width how often the
order was begun.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType

from instgenie.errors import ReplicaError
from instgenie.orders import EditOrder, EditOutcome, StepReport
from instgenie.replica.process import run_replica
from instgenie.replica.replica_settings import ReplicaSettings
from instgenie_cache.wire.address import Address
from tests.instgenie.replica.scripted_replica import TIMINGS, ScriptedReplica

WAIT_SECONDS = 100.0
_ROOT = Path(__file__).parents[3]


class SteppingReplica(ScriptedReplica):
    """Edits by the clock."""

    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        """See `Replica`."""
        self.begins[order.id] += 1
        steps = order.steps or 1
        for step in range(steps):
            report(StepReport(step, steps))
            await asyncio.sleep(0.01)
        return EditOutcome(order.picture.data, self.begins[order.id], order.picture.height, TIMINGS)


class FailingReplica(SteppingReplica):
    """Can go on no more once an edit whose prompt says so has taken a step."""

    def __init__(self) -> None:
        super().__init__()
        self.failed = asyncio.Event()

    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        """See `Replica`."""
        if order.prompt == "fail":
            self.failed.set()
        return await super().edit(order, report)

    async def watch(self) -> None:
        """See `LocalReplica`."""
        await self.failed.wait()
        raise ReplicaError("the device is on fire")


class ReplicaProcess:
    """A replica that takes front ends once the constructor returns; at the end of a `with` block it is killed."""

    def __init__(self, *command: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("INSTGENIE_")}
        self.process = subprocess.Popen(
            (sys.executable, "-W", "error::ResourceWarning", *command),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            env=environment | {"OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        self.ready_line = self.process.stdout.readline()
        if not self.ready_line:
            raise AssertionError(f"the replica ended with {self.process.wait()} before it was ready: {self.end()[1]}")
        self.address = Address.parse(self.ready_line.removeprefix("serving at ").strip())

    def __enter__(self) -> ReplicaProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.end()

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait until it ends: the exit code and the log."""
        if self.process.stdout is not None and self.process.stdout.closed:
            return self.process.returncode, ""
        _, log = self.process.communicate(timeout=WAIT_SECONDS)
        return self.process.returncode, log


def without_model(socket: Path, grace_seconds: float = 10.0) -> ReplicaProcess:
    """This file's replica."""
    return ReplicaProcess("-m", "tests.instgenie.replica.replica_program", str(socket), str(grace_seconds))


@asynccontextmanager
async def _open(_: ReplicaSettings) -> AsyncIterator[ScriptedReplica]:
    yield FailingReplica()


def _tell(addresses: Sequence[Address]) -> None:
    print(f"serving at {addresses[0]}", flush=True)  # noqa: T201 - a program


if __name__ == "__main__":
    settings = ReplicaSettings(listen=(Address(path=sys.argv[1]),), grace_seconds=float(sys.argv[2]))
    try:
        asyncio.run(run_replica(settings, _tell, _open))
    except ReplicaError as error:
        sys.exit(f"error: {error}")
