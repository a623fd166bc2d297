from __future__ import annotations

import pytest

from instgenie_server.fleet.kept_members import KeptMember, kept_members
from instgenie_server.fleet.member import HERE, Member, ReplicaStartError
from instgenie_server.processes.child_command import ChildCommand
from instgenie_server.processes.kept_process import ChildProcess, KeptProcess
from instgenie_server.replica_process.supervised_replica import SupervisedReplica
from tests.server.replica_process.fake_host import FakeHost


def never_started(name: str, reason: str) -> KeptMember:
    async def launch(_: ChildCommand) -> ChildProcess:
        raise OSError(reason)

    command = ChildCommand(
        name="replica", module="", logger="", settings={}, ready_seconds=1, stop_seconds=1, attempts=1
    )
    host = FakeHost()
    return KeptMember(Member(name, HERE, SupervisedReplica(host, host.connect)), KeptProcess(command, launch=launch))


async def test_where_none_can_be_started_each_reason_is_told_once() -> None:
    replicas = [never_started("1", "no memory"), never_started("2", "no memory"), never_started("3", "no device")]
    with pytest.raises(ReplicaStartError) as caught:
        async with kept_members(replicas):
            pass
    assert sorted(str(caught.value).split("; ")) == ["replica: no device", "replica: no memory"]
