"""What members say again and again, and what becomes of those that hang."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from instgenie.balancer.policies import POLICIES
from instgenie.errors import ReplicaLostError
from instgenie_server.fleet.heartbeat import Heartbeat, HeartbeatSettings
from instgenie_server.fleet.roster import Roster
from tests.server.fleet.crew import Crew, crew, order
from tests.server.routes.scripted_replica import COSTS

# A step of as many tokens as may be takes 4.1 s with these costs: a hung one takes 20 times that.
ROWS = 4096
LONGEST_SECONDS = 20 * (COSTS.base_seconds + ROWS * COSTS.full.row)


def watched(fleet: Crew, hung_seconds: float) -> tuple[Roster, Heartbeat]:
    """A roster of the crew's members, and its heartbeat, of which the test has each beat."""
    members = [place.member for place in fleet.places]
    roster = Roster(members, POLICIES["finish_time"](), fleet.clock)
    return roster, Heartbeat(roster, HeartbeatSettings(answer_seconds=0.02, hung_seconds=hung_seconds), fleet.clock)


async def test_a_word_keeps_a_member_in_use() -> None:
    async with crew(1) as fleet:
        roster, heartbeat = watched(fleet, 120)
        (seat,) = roster
        for _ in range(5):
            fleet.clock.now += 20
            await heartbeat.beat(seat)
            assert roster.presence.is_there
        fleet[1].link.hangs = True
        fleet.clock.now += 20
        await heartbeat.beat(seat)
        assert roster.presence.is_there
        fleet.clock.now += 20
        await heartbeat.beat(seat)
        assert not roster.presence.is_there
        fleet[1].link.hangs = False
        await heartbeat.beat(seat)
        assert roster.presence.is_there
        assert fleet[1].host.given_up == []


async def test_costs_are_learnt() -> None:
    async with crew(1) as fleet:
        roster, heartbeat = watched(fleet, 120)
        (seat,) = roster
        fleet[1].link._costs = replace(COSTS, base_seconds=7.0)
        await heartbeat.beat(seat)
        assert roster.fleet["1"].costs.base_seconds == 7


async def test_one_that_is_at_a_step_for_long_is_given_up() -> None:
    async with crew(2) as fleet:
        roster, heartbeat = watched(fleet, hung_seconds=1)
        seat, _ = roster
        editing = asyncio.create_task(fleet[1].replica.edit(order("a"), lambda _: None))
        await fleet[1].link.edits.get()
        fleet[1].link.step_age_seconds = LONGEST_SECONDS - 1
        await heartbeat.beat(seat)
        assert not seat.is_hung
        fleet[1].link.step_age_seconds = LONGEST_SECONDS + 1
        with capture_logs() as logged:
            await heartbeat.beat(seat)
        assert [line["event"] for line in logged if line["log_level"] == "error"] == [
            "the replica hangs: it is given up"
        ]
        assert fleet[1].host.given_up == [fleet[1].life]
        with pytest.raises(ReplicaLostError):
            await editing
        assert [seat.id for seat in roster.ready()] == ["2"]
        await fleet[1].run()
        assert [seat.id for seat in roster.ready()] == ["1", "2"]
