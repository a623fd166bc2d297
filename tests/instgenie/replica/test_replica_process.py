"""A replica in a process of its own: killed, drained, and with front ends that are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from instgenie.errors import ReplicaError
from instgenie.orders import EditOrder, StepReport
from instgenie.replica.remote_replica import RemoteReplica
from tests.instgenie.replica.replica_program import ReplicaProcess, without_model
from tests.instgenie.replica.scripted_replica import an_order, until

pytestmark = pytest.mark.asyncio

ROOT = Path(__file__).parents[3]
PICTURE = an_order().picture.data


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ReplicaProcess]:
    with without_model(tmp_path / "replica.sock") as process:
        yield process


def ignore(_: object) -> None:
    """A report that nobody reads."""


async def running(remote: RemoteReplica, *orders: EditOrder) -> list[asyncio.Task[bytes]]:
    """Edits that have all taken a step."""
    begun = [asyncio.Event() for _ in orders]

    async def edit(order: EditOrder, event: asyncio.Event) -> bytes:
        def report(step: StepReport) -> None:
            if step.step:
                event.set()

        return (await remote.edit(order, report)).image

    edits = [asyncio.create_task(edit(order, event)) for order, event in zip(orders, begun, strict=True)]
    async with asyncio.timeout(20):
        await asyncio.gather(*(event.wait() for event in begun))
    return edits


async def test_replica_is_killed_with_eight_edits_in_flight(process: ReplicaProcess) -> None:
    remote = await RemoteReplica.connect(process.address)
    edits = await running(remote, *(an_order(f"{n}", steps=1000) for n in range(8)))
    process.signal(signal.SIGKILL)
    began = time.monotonic()
    results = await asyncio.gather(*edits, return_exceptions=True)
    assert time.monotonic() - began < 2
    assert {type(result) for result in results} == {ReplicaError}
    assert all("its process has ended" in str(result) for result in results)
    assert "its process has ended" in await remote.wait_closed()
    await remote.close()


async def test_replica_that_can_go_on_no_more_ends_and_its_edits_fail(process: ReplicaProcess) -> None:
    """Else it would refuse whatever comes for ever, and nobody would start another one."""
    remote = await RemoteReplica.connect(process.address)
    edits = await running(remote, *(an_order(f"{n}", steps=1000) for n in range(2)))
    last = remote.edit(an_order("last", steps=1000, prompt="fail"), ignore)
    results = await asyncio.gather(*edits, last, return_exceptions=True)
    assert {type(result) for result in results} == {ReplicaError}
    code, log = await asyncio.to_thread(process.end)
    assert (code, "the device is on fire" in log) == (1, True)
    await remote.close()


async def test_replica_that_is_told_to_end_finishes_what_it_took(process: ReplicaProcess) -> None:
    remote = await RemoteReplica.connect(process.address)
    edits = await running(remote, *(an_order(f"{n}", steps=50) for n in range(4)))
    process.signal(signal.SIGTERM)
    await until(lambda: remote.is_draining)
    with pytest.raises(ReplicaError, match="draining"):
        await remote.edit(an_order("late"), ignore)
    assert await asyncio.gather(*edits) == [PICTURE] * 4
    assert (await asyncio.to_thread(process.end))[0] == 0
    assert "it has ended" in await remote.wait_closed()
    await remote.close()


async def test_second_signal_ends_at_once(process: ReplicaProcess) -> None:
    remote = await RemoteReplica.connect(process.address)
    edits = await running(remote, an_order(steps=1000))
    process.signal(signal.SIGTERM)
    await until(lambda: remote.is_draining)
    process.signal(signal.SIGTERM)
    code, log = await asyncio.to_thread(process.end)
    assert code == 1
    assert "edits in progress are lost" in log
    with pytest.raises(ReplicaError, match="its process has ended"):
        await edits[0]
    await remote.close()


FRONT_END = """
import asyncio, sys
from instgenie.replica.remote_replica import RemoteReplica
from tests.instgenie.replica.scripted_replica import an_order, until

async def main():
    remote = await RemoteReplica.connect(sys.argv[1])
    await remote.edit(an_order("short", steps=200), lambda step: print(step.step, flush=True))

asyncio.run(main())
"""


async def a_front_end_that_is_killed(process: ReplicaProcess) -> None:
    """Its edit has begun."""
    front_end = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        FRONT_END,
        str(process.address),
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert front_end.stdout is not None
    assert await front_end.stdout.readline() == b"0\n"
    front_end.kill()
    await front_end.communicate()


@pytest.mark.parametrize("ends", ["goes on", "is told to end"])
async def test_front_end_is_killed_and_a_new_one_fetches_the_result(process: ReplicaProcess, ends: str) -> None:
    await a_front_end_that_is_killed(process)
    if ends == "is told to end":  # it waits for whoever comes
        process.signal(signal.SIGTERM)
    remote = await RemoteReplica.connect(process.address)
    outcome = await remote.edit(an_order("short", steps=200), ignore)
    assert (outcome.image, outcome.width) == (PICTURE, 1)
    await remote.close()
    if ends == "is told to end":
        assert (await asyncio.to_thread(process.end))[0] == 0


async def test_results_that_nobody_fetches_are_not_waited_for_forever(tmp_path: Path) -> None:
    with without_model(tmp_path / "replica.sock", grace_seconds=0.1) as process:
        await a_front_end_that_is_killed(process)
        process.signal(signal.SIGTERM)
        code, log = await asyncio.to_thread(process.end)
    assert code == 0
    assert "1 results were not fetched in 0.1 s" in log


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--listen", "nowhere"], "listen: an address is"),
        (["--listen", "tcp://127.0.0.1:0"], "a port needs a secret-file"),
        (["--listen", "unix:/tmp/x", "--secret-file", "/no/such"], "/no/such cannot be read"),
        (["--listen", "unix:/tmp/x", "--socket-mode", "rw"], "socket-mode"),
        (["--listen", "unix:/tmp/x", "--cache", "nowhere"], "cache: an address is"),
        (["--listen", "unix:/tmp/x", "--device", "cuda:99"], "device: there is no cuda:99 here, only "),
    ],
)
async def test_settings_that_cannot_be(options: list[str], message: str) -> None:
    command = [sys.executable, "-m", "instgenie.replica", *options]
    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert message in ended.stderr


async def test_unknown_variables_are_told() -> None:
    command = [sys.executable, "-m", "instgenie.replica", "--listen", "unix:/tmp/x"]
    environment = os.environ | {"INSTGENIE_REPLICA_CODECS": "int8"}
    ended = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=False, env=environment
    )
    assert ended.returncode == 2
    assert "unknown environment variable INSTGENIE_REPLICA_CODECS" in ended.stderr
