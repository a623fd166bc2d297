"""The check that containers are asked by."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from instgenie.balancer.step_costs import StepCosts, TokenSeconds
from instgenie.orders import ReplicaStats
from instgenie.replica.service import ReplicaService
from instgenie_cache.open_store import socket_of
from instgenie_cache.wire.address import Address
from tests.instgenie.replica.scripted_replica import ScriptedReplica
from tests.server.record_cache.services import running_service

pytestmark = pytest.mark.asyncio

HEALTH = Path(__file__).parents[2] / "docker/health.py"
FREE = TokenSeconds(0.0)
# Runs what its arguments name, and tells what is imported once a time limit has begun.
WATCHED = """
import asyncio, runpy, sys
sys.argv, limited, before = sys.argv[1:], asyncio.timeout, None
def timeout(seconds):
    global before
    before = before or set(sys.modules)
    return limited(seconds)
asyncio.timeout = timeout
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    sys.stderr.write(str([name for name in set(sys.modules) - before if name.startswith("instgenie")]))
"""


class Busy(ScriptedReplica):
    """Its device has been at one step for so long."""

    def __init__(self, step_age_seconds: float, step_seconds: float) -> None:
        super().__init__()
        self.costs = StepCosts(step_seconds, FREE, FREE, {})
        self._step_age_seconds = step_age_seconds

    async def stats(self) -> ReplicaStats:
        return ReplicaStats(running=1, step_age_seconds=self._step_age_seconds)


async def health_of(address: str, *options: str) -> tuple[int | None, str]:
    """Exit code and error."""
    command = (sys.executable, *options, str(HEALTH), address)
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, error = await process.communicate()
    return process.returncode, error.decode()


@pytest.mark.parametrize(
    ("step_age_seconds", "step_seconds", "reason"),
    [(0, 1, None), (119, 1, None), (121, 1, "at one step for 121 s, longer than 120 s"), (121, 10, None)],
)
async def test_a_replica_that_hangs_is_not_well(
    tmp_path: Path, step_age_seconds: float, step_seconds: float, reason: str | None
) -> None:
    address = Address(path=str(tmp_path / "replica.sock"))
    service = ReplicaService(Busy(step_age_seconds, step_seconds), [address])
    await service.start()
    code, error = await health_of(str(address))
    await service.close()
    assert code == (reason is not None)
    assert (reason or "") in error


async def test_imports_do_not_count_as_time_to_answer(tmp_path: Path) -> None:
    replica, cache = Address(path=str(tmp_path / "replica.sock")), Address(path=str(socket_of(tmp_path)))
    service = ReplicaService(Busy(0, 1), [replica])
    await service.start()
    async with running_service(tmp_path):
        for address in (replica, cache):
            assert await health_of(str(address), "-c", WATCHED) == (0, "[]")
    await service.close()


async def test_nobody_there() -> None:
    for address in ("unix:/nowhere/replica.sock", "unix:/nowhere/cache.sock", "http://127.0.0.1:9"):
        code, error = await health_of(address)
        assert code == 1
        assert error.startswith(f"{address}: ")
