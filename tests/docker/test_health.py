"""The check that containers are asked by."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from instgenie.balancer.step_costs import StepCosts, TokenSeconds
from instgenie.orders import ReplicaStats
from instgenie.replica.service import ReplicaService
from instgenie_cache.wire.address import Address
from tests.instgenie.replica.scripted_replica import ScriptedReplica

pytestmark = pytest.mark.asyncio

HEALTH = Path(__file__).parents[2] / "docker/health.py"
FREE = TokenSeconds(0.0)


class Busy(ScriptedReplica):
    """Its device has been at one step for so long."""

    def __init__(self, step_age_seconds: float, step_seconds: float) -> None:
        super().__init__()
        self.costs = StepCosts(step_seconds, FREE, FREE, {})
        self._step_age_seconds = step_age_seconds

    async def stats(self) -> ReplicaStats:
        return ReplicaStats(running=1, step_age_seconds=self._step_age_seconds)


async def health_of(address: str) -> tuple[int | None, str]:
    """Exit code and error."""
    process = await asyncio.create_subprocess_exec(sys.executable, HEALTH, address, stderr=asyncio.subprocess.PIPE)
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


async def test_nobody_there() -> None:
    for address in ("unix:/nowhere/replica.sock", "unix:/nowhere/cache.sock", "http://127.0.0.1:9"):
        code, error = await health_of(address)
        assert code == 1
        assert error.startswith(f"{address}: ")
