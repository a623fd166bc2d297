"""Another process for each member, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

from structlog.testing import capture_logs

from instgenie_server.fleet.fleet_replica import FleetSettings
from tests.server.fleet.crew import crew, until
from tests.server.routes.scripted_replica import MODEL


async def renewed() -> list[MutableMapping[str, Any]]:
    """Wait until the renewal is over: what was logged since."""
    with capture_logs() as logged:
        ends = ("others stay", "replicas are renewed", "is left as it is")
        await until(lambda: any(end in str(logged) for end in ends))
    return logged


async def test_each_finishes_what_it_has_while_the_others_work() -> None:
    async with crew(2) as fleet:
        edits = [fleet.edit(name) for name in "ab"]
        running = dict([await fleet.begun(name) for name in "ab"])
        assert fleet.fleet.renew()
        assert not fleet.fleet.renew()
        await until(lambda: fleet.fleet.num_ready == 1)
        edits.append(fleet.edit("c"))
        name, edit = await fleet.begun("c")
        assert name == 2
        assert [place.renewals for place in fleet.places] == [0, 0]
        running[1].succeed()
        await until(lambda: fleet[1].renewals == 1 and len(fleet[1].host.links) == 2)
        assert fleet[2].renewals == 0  # it has two edits
        running[2].succeed()
        edit.succeed()
        await renewed()
        assert [place.renewals for place in fleet.places] == [1, 1]
        assert fleet.fleet.num_ready == 2
        assert all([(await edit).image for edit in edits])
        assert fleet.fleet.renew()  # once more


async def test_one_that_does_not_finish_is_renewed_all_the_same() -> None:
    async with crew(1, FleetSettings(drain_seconds=0.01)) as fleet:
        editing = fleet.edit("a")
        await fleet.begun("a")
        fleet.fleet.renew()
        await renewed()
        assert isinstance(await asyncio.gather(editing, return_exceptions=True), list)
        assert fleet.fleet.num_ready == 1


async def test_a_fleet_of_one_is_away_meanwhile() -> None:
    async with crew(1) as fleet:
        seen: list[bool] = []
        presence = fleet.fleet.presence
        presence.watch(lambda: seen.append(presence.is_there))
        fleet.fleet.renew()
        await renewed()
        assert seen == [False, True]


async def test_where_one_does_not_come_back_the_others_stay() -> None:
    async with crew(3) as fleet:
        fleet[2].can_renew = False
        fleet.fleet.renew()
        logged = await renewed()
        (error,) = (line for line in logged if line["log_level"] == "error")
        assert (error["replica"], error["reason"]) == ("2", "no memory")
        assert [place.renewals for place in fleet.places] == [1, 1, 0]
        assert fleet.fleet.num_ready == 2
        await fleet[2].run()  # the process is started again as ever
        assert fleet.fleet.num_ready == 3


async def test_one_that_comes_back_with_another_model_is_not_used() -> None:
    async with crew(2) as fleet:
        fleet[1].host.model = replace(MODEL, revision="2")
        fleet.fleet.renew()
        logged = await renewed()
        assert "another model" in [line for line in logged if line["log_level"] == "error"][-1]["reason"]
        assert fleet[2].renewals == 0
        assert fleet.fleet.num_ready == 1
        assert fleet.fleet.model == MODEL


async def test_a_model_of_which_nobody_else_has_another_one_is_taken() -> None:
    async with crew(1) as fleet:
        fleet[1].host.model = replace(MODEL, revision="2")
        fleet.fleet.renew()
        await renewed()
        assert fleet.fleet.num_ready == 1
        assert fleet.fleet.model.revision == "2"


async def test_a_renewal_is_no_restart() -> None:
    async with crew(2) as fleet:
        await fleet[1].kill()
        await fleet[1].run()
        for _ in range(3):
            fleet.fleet.renew()
            await renewed()
        standings = await fleet.fleet.standings(30)
        assert [(one.restarts, one.renewals) for one in standings] == [(1, 3), (0, 3)]


async def test_those_of_somebody_else_are_left_alone() -> None:
    async with crew(2) as fleet:
        fleet[1].member.renew = None
        fleet.fleet.renew()
        await renewed()
        assert [place.renewals for place in fleet.places] == [0, 1]


async def test_those_that_are_away_are_not_waited_for() -> None:
    async with crew(3) as fleet:
        await fleet[1].kill()
        fleet.fleet.renew()
        await renewed()
        assert [place.renewals for place in fleet.places] == [0, 1, 1]


async def test_the_last_one_that_takes_edits_is_left_as_it_is() -> None:
    async with crew(2) as fleet:
        await fleet[1].kill()
        fleet.fleet.renew()
        await renewed()
        assert [place.renewals for place in fleet.places] == [0, 0]
