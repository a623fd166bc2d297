"""Several replicas as one: where edits go, and what becomes of them when replicas do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from instgenie.balancer.template_map import Warmth
from instgenie.errors import DeadlineError, MaskError, ReplicaAwayError, ReplicaError, ReplicaLostError
from instgenie.orders import HeldTemplate, ReplicaStats, WarmOrder, WarmReport
from instgenie_server.fleet.fleet_replica import FleetSettings
from tests.server.fleet.crew import crew, order, until


async def test_edits_are_spread_and_reports_are_told() -> None:
    async with crew(2) as fleet:
        steps: list[int] = []
        edits = [asyncio.create_task(fleet.fleet.edit(order("a"), lambda step: steps.append(step.step)))]
        first_name, first = await fleet.begun("a")
        edits.append(fleet.edit("b", template=1))
        second_name, second = await fleet.begun("b")
        assert {first_name, second_name} == {1, 2}
        for step in range(3):
            first.step(step)
        assert steps == [0, 1, 2]
        first.succeed()
        second.succeed()
        assert all([(await edit).image for edit in edits])
        assert [(decision.replica, decision.warmth) for decision in fleet.decisions] == [
            (str(first_name), Warmth.COLD),
            (str(second_name), Warmth.COLD),
        ]


async def test_a_template_that_was_recorded_is_known_as_warm() -> None:
    async with crew(2) as fleet:
        editing = fleet.edit("a")
        _, edit = await fleet.begun("a")
        edit.step(0)
        edit.succeed()
        await editing
        editing = fleet.edit("b")
        (await fleet.begun("b"))[1].succeed()
        await editing
        assert [decision.warmth for decision in fleet.decisions] == [Warmth.COLD, Warmth.HOST]


async def test_an_edit_that_loses_its_replica_goes_to_another_one_at_once() -> None:
    async with crew(2) as fleet:
        editing = fleet.edit("a")
        name, _ = await fleet.begun("a")
        await fleet[name].kill()
        with pytest.raises(ReplicaLostError, match="ended before"):
            await editing
        assert fleet.fleet.presence.is_there
        assert fleet.fleet.num_ready == 1
        again = fleet.edit("a")
        other, edit = await fleet.begun("a")
        assert other != name
        edit.succeed()
        await again
        await fleet[name].run()
        assert fleet.fleet.num_ready == 2


async def test_while_nobody_is_there() -> None:
    async with crew(2) as fleet:
        for name in (1, 2):
            await fleet[name].kill()
        assert not fleet.fleet.presence.is_there
        for asked in (
            fleet.fleet.edit(order("a"), lambda _: None),
            fleet.fleet.warm(WarmOrder(id="t", picture=order("a").picture), lambda _: None),
            fleet.fleet.held(["k"]),
            fleet.fleet.stats(),
        ):
            with pytest.raises(ReplicaAwayError):
                await asked
        assert fleet.fleet.model.name == "scripted"
        assert fleet.fleet.predicted_seconds(order("a")) == 1
        await fleet[2].run()
        assert fleet.fleet.presence.is_there


async def test_a_replica_of_which_nothing_was_heard_for_long_gets_nothing() -> None:
    """Who waits must not find that there is one, or it would ask again and again."""
    async with crew(1) as fleet:
        fleet.clock.now += 31
        with pytest.raises(ReplicaAwayError):
            await fleet.edit("a")
        assert not fleet.fleet.presence.is_there


async def test_errors_of_an_edit_are_its_own() -> None:
    async with crew(1) as fleet:
        for error in (MaskError("mask", "is empty"), ReplicaError("out of memory"), DeadlineError("late")):
            editing = fleet.edit("a")
            (await fleet.begun("a"))[1].fail(error)
            with pytest.raises(type(error)) as caught:
                await editing
            assert caught.value is error


async def test_a_cancelled_edit_counts_no_more() -> None:
    async with crew(2, FleetSettings(policy="least_requests")) as fleet:
        edits = [fleet.edit(name) for name in "ab"]
        first, running = await fleet.begun("a")
        edits[0].cancel()
        await running.stopped.wait()
        assert running.cancelled
        edits.append(fleet.edit("c"))
        assert (await fleet.begun("c"))[0] == first
        for name in "bc":
            (await fleet.begun(name))[1].succeed()
        await asyncio.gather(*edits[1:])


async def test_a_deadline_counts_from_when_the_fleet_was_asked() -> None:
    async with crew(1) as fleet:
        editing = fleet.edit("a", deadline_seconds=10.0)
        _, edit = await fleet.begun("a")
        assert edit.order.deadline_seconds == 10
        edit.succeed()
        await editing


async def test_templates_are_recorded_where_least_is_to_do() -> None:
    async with crew(2) as fleet:
        editing = fleet.edit("a")
        name, edit = await fleet.begun("a")
        warming = asyncio.create_task(fleet.fleet.warm(WarmOrder(id="t", picture=order("a").picture), lambda _: None))
        other = fleet[3 - name]
        (await other.link.warms.get()).succeed()
        await warming
        edit.succeed()
        await editing


async def test_an_edit_of_a_template_that_was_recorded_beforehand_finds_it_warm() -> None:
    async with crew(1) as fleet:
        warming = asyncio.create_task(fleet.fleet.warm(WarmOrder(id="t", picture=order("a").picture), lambda _: None))
        warm = await fleet[1].link.warms.get()
        warm.report(WarmReport(1, 1, (0, 0, 64, 64), "key", 100, "cold"))
        warm.succeed()
        await warming
        await until(lambda: not any(task.get_name() == "name of a window of t" for task in asyncio.all_tasks()))
        editing = fleet.edit("a")
        (await fleet.begun("a"))[1].succeed()
        await editing
        assert [decision.warmth for decision in fleet.decisions] == [Warmth.HOST]


async def test_questions_go_to_all_that_are_there() -> None:
    async with crew(3) as fleet:
        for name, held in ((1, HeldTemplate(100, 2)), (2, HeldTemplate(None, 3))):
            fleet[name].link.records["k"] = held
        await fleet[3].kill()
        assert await fleet.fleet.held(["k", "l"]) == {"k": HeldTemplate(100, 5), "l": HeldTemplate(None, 0)}
        assert await fleet.fleet.pin(["k"]) == 1
        assert [fleet[name].link.pinned for name in (1, 2)] == [{"k"}] * 2
        await fleet[3].run()
        assert fleet[3].link.pinned == {"k"}
        await fleet[3].kill()
        await fleet.fleet.unpin(["k"])
        await fleet[3].run()
        assert [fleet[name].link.pinned for name in (1, 2, 3)] == [set()] * 3
        await fleet.fleet.pin(["k"])
        await fleet[3].kill()
        await fleet.fleet.forget(["k"])
        await fleet[3].run()
        assert [fleet[name].link.forgotten for name in (1, 2)] == [["k"]] * 2
        assert not fleet[3].link.pinned


async def test_one_that_hangs_does_not_keep_the_others_answers() -> None:
    async with crew(2) as fleet:
        fleet[1].link.hangs = True
        assert await fleet.fleet.held(["k"]) == {"k": HeldTemplate(None, 0)}


async def test_one_that_goes_while_it_is_asked_is_left_out() -> None:
    async with crew(2) as fleet:
        fleet[1].link.hangs = True
        fleet[2].link.records["k"] = HeldTemplate(100, 0)
        asking = asyncio.create_task(fleet.fleet.pin(["k"]))
        await asyncio.sleep(0)
        fleet[1].link.cut()
        assert await asking == 1


async def test_one_that_is_late_has_what_it_said_last() -> None:
    async with crew(2) as fleet:
        held = {"k": HeldTemplate(100, 2)}
        fleet[1].link.records |= held
        assert await fleet.fleet.held(["k", "l"]) == held | {"l": HeldTemplate(None, 0)}
        fleet[1].link.hangs = True
        fleet[2].link.records["k"] = HeldTemplate(None, 1)
        assert await fleet.fleet.held(["k", "l"]) == {"k": HeldTemplate(100, 3), "l": HeldTemplate(None, 0)}
        assert await fleet.fleet.pin(["k", "l"]) == 1
        await fleet.fleet.forget(["k"])
        assert await fleet.fleet.held(["k"]) == {"k": HeldTemplate(None, 0)}
        assert await fleet.fleet.pin(["k"]) == 0


async def test_what_one_has_recorded_is_there_though_it_is_late() -> None:
    async with crew(2) as fleet:
        warming = asyncio.create_task(fleet.fleet.warm(WarmOrder(id="t", picture=order("a").picture), lambda _: None))
        await until(lambda: any(not place.link.warms.empty() for place in fleet.places))
        (place,) = [place for place in fleet.places if not place.link.warms.empty()]
        warm = await place.link.warms.get()
        warm.report(WarmReport(1, 1, (0, 0, 64, 64), "k", 100, "cold"))
        warm.succeed()
        await warming
        place.link.hangs = True
        assert await fleet.fleet.pin(["k"]) == 1
        place.link.hangs = False
        await place.kill()
        await place.run()  # of what the next one has, nothing is known
        place.link.hangs = True
        assert await fleet.fleet.held(["k"]) == {"k": HeldTemplate(None, 0)}


async def test_what_all_do() -> None:
    async with crew(2) as fleet:
        edits = [fleet.edit(name) for name in "ab"]
        for name in "ab":
            await fleet.begun(name)
        assert (await fleet.fleet.stats()).running == 2
        await fleet[2].kill()
        standings = await fleet.fleet.standings(1)
        assert [(standing.id, standing.state, standing.stats) for standing in standings] == [
            ("1", "ready", ReplicaStats(running=1)),
            ("2", "gone", None),
        ]
        await fleet[2].run()
        assert [standing.restarts for standing in await fleet.fleet.standings(1)] == [0, 1]
        fleet[1].link.let_go()
        await asyncio.gather(*edits, return_exceptions=True)


async def test_a_replica_that_fails_edits_which_others_do_is_given_up() -> None:
    """It has the least to do, and would get all that come."""
    async with crew(2) as fleet:
        blamed = number = 0
        while blamed < 3:
            assert not fleet[1].host.given_up
            number += 1
            editing = fleet.edit(f"edit {number}", template=number)
            name, edit = await fleet.begun(f"edit {number}")
            if name == 1:
                edit.fail(ReplicaError("the device failed"))
                with pytest.raises(ReplicaLostError, match="the device failed"):
                    await editing
                editing = fleet.edit(f"edit {number}", template=number)
                await until(lambda: bool(fleet[2].link.running_edits()))  # not where it failed
                (edit,) = fleet[2].link.running_edits()
                blamed += 1
            edit.succeed()
            await editing
        await until(lambda: bool(fleet[1].host.given_up))
        assert fleet.fleet.num_ready == 1


async def test_orders_that_fail_everywhere_end_no_replica() -> None:
    async with crew(2) as fleet:
        for number in range(8):
            for _ in range(3):  # as often as it is tried
                editing = fleet.edit(f"edit {number}", template=number)
                _, edit = await fleet.begun(f"edit {number}")
                edit.fail(ReplicaError("the order is odd"))
                with pytest.raises(ReplicaLostError, match="the order is odd"):
                    await editing
        assert fleet.fleet.num_ready == 2
        assert not any(place.host.given_up for place in fleet.places)


async def test_what_is_forgotten_while_a_member_is_away_is_forgotten_there_before_it_edits() -> None:
    async with crew(2) as fleet:
        await fleet[2].kill()
        await fleet.fleet.forget(["k"])
        assert fleet[1].link.forgotten == ["k"]
        await fleet[2].run()
        assert fleet[2].link.forgotten == ["k"]


async def test_what_is_forgotten_while_nobody_is_there_is_forgotten_by_those_that_return() -> None:
    async with crew(2) as fleet:
        for name in (1, 2):
            await fleet[name].kill()
        await fleet.fleet.forget(["k"])
        for name in (1, 2):
            await fleet[name].run()
            assert fleet[name].link.forgotten == ["k"]


async def test_one_that_goes_before_it_has_forgotten_does_when_it_is_back_but_for_what_is_there_again() -> None:
    async with crew(2) as fleet:
        asked = asyncio.Event()
        link = fleet[2].link

        async def hang(_: Iterable[str]) -> None:
            asked.set()
            await link.is_closed.wait()
            raise ReplicaError("the replica is gone")

        link.forget = hang  # type: ignore[method-assign, assignment]
        forgetting = asyncio.create_task(fleet.fleet.forget(["k", "l"]))
        await asked.wait()
        fleet[1].link.records["k"] = HeldTemplate(100, 0)
        pinning = asyncio.create_task(fleet.fleet.pin(["k"]))
        await until(lambda: "k" in fleet[1].link.pinned)
        await fleet[2].kill()
        await asyncio.gather(forgetting, pinning)
        await fleet[2].run()
        assert fleet[2].link.forgotten == ["l"]


@pytest.mark.parametrize("is_pinned", [True, False])
async def test_what_is_there_again_is_not_forgotten_by_one_that_returns(is_pinned: bool) -> None:
    async with crew(2) as fleet:
        await fleet[2].kill()
        await fleet.fleet.forget(["k", "l"])
        if is_pinned:
            await fleet.fleet.pin(["k"])
        else:
            warming = asyncio.create_task(fleet.fleet.warm(WarmOrder(id="t", picture=order("a").picture), print))
            warm = await fleet[1].link.warms.get()
            warm.window(1, 1, "k")
            warm.succeed()
            await warming
        await fleet[2].run()
        assert fleet[2].link.forgotten == ["l"]


async def test_an_edit_that_is_cut_off_by_a_renewal_goes_elsewhere_and_loses_no_attempt() -> None:
    async with crew(2, FleetSettings(drain_seconds=0.01)) as fleet:
        editing = fleet.edit("a")
        first, _ = await fleet.begun("a")
        life = fleet[first].life
        assert life is not None
        life.is_renewed = True
        await fleet[first].kill()
        other = fleet[3 - first]
        await until(lambda: bool(other.link.running_edits()))
        (edit,) = other.link.running_edits()
        edit.succeed()
        assert (await editing).image


async def test_one_that_drains_gets_nothing_more() -> None:
    async with crew(2) as fleet:
        fleet[1].link.leaving.set()
        await until(lambda: fleet.fleet.num_ready == 1)
        editing = fleet.edit("a")
        name, edit = await fleet.begun("a")
        assert name == 2
        edit.succeed()
        await editing
        assert [standing.state for standing in await fleet.fleet.standings(1)] == ["draining", "ready"]
