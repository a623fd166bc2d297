"""Who is in a fleet."""

from __future__ import annotations

from dataclasses import replace

from structlog.testing import capture_logs

from instgenie.balancer.policies import POLICIES
from instgenie.sched.limits import BatchLimits
from instgenie_server.fleet.card_limits import limits_of
from instgenie_server.fleet.roster import Roster
from tests.server.fleet.crew import crew
from tests.server.routes.scripted_replica import MODEL


async def test_members_that_are_there_already_are_known() -> None:
    async with crew(3) as fleet:
        await fleet[2].kill()
        roster = Roster([place.member for place in fleet.places], POLICIES["round_robin"](), fleet.clock)
        assert [seat.state for seat in roster] == ["ready", "gone", "ready"]
        assert roster.presence.is_there


async def test_a_member_with_another_model_is_not_used() -> None:
    async with crew(2, running=False) as fleet:
        fleet[2].host.model = replace(MODEL, revision="2")
        with capture_logs() as logged:
            await fleet[1].run()
            await fleet[2].run()
        assert fleet.fleet.num_ready == 1
        assert [line["replica"] for line in logged if line["log_level"] == "error"] == ["2"]
        await fleet[1].kill()
        assert fleet.fleet.num_ready == 0  # it may be back soon, and jobs are meant for its model
        fleet[1].host.model = replace(MODEL, revision="2")
        await fleet[1].run()
        assert fleet.fleet.num_ready == 2
        assert fleet.fleet.model.revision == "2"


async def test_a_member_with_another_dtype_is_told_of() -> None:
    async with crew(2, running=False) as fleet:
        fleet[2].host.model = replace(MODEL, dtype="bfloat16")
        with capture_logs() as logged:
            await fleet[1].run()
            await fleet[2].run()
        assert fleet.fleet.num_ready == 2
        assert [line["dtype"] for line in logged if "dtypes" in line["event"]] == ["bfloat16"]


async def test_where_a_member_runs_may_change() -> None:
    async with crew(2) as fleet:
        roster = Roster([place.member for place in fleet.places], POLICIES["round_robin"](), fleet.clock)
        await fleet[1].kill()
        fleet[1].member.machine = "another"
        await fleet[1].run()
        assert [roster.fleet[name].profile.machine for name in "12"] == ["another", fleet[2].member.machine]


def test_limits_are_those_of_the_card() -> None:
    told = limits_of(replace(MODEL, batch_edits=3, batch_tokens=100))
    assert (told.edits, told.rows) == (3, 100)
    assert limits_of(MODEL) == BatchLimits()
