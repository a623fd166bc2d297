"""Connections that are lost, and front ends that are: nothing is silent, and no result is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from instgenie.errors import MaskError, ReplicaError
from instgenie.orders import EditOutcome, StepReport, WarmReport
from instgenie.replica.remote_replica import RemoteReplica, RemoteSettings
from instgenie.replica.service import ReplicaService
from instgenie.replica.service_limits import ServiceLimits
from instgenie_cache.wire.address import Address
from tests.instgenie.replica.conftest import QUICK
from tests.instgenie.replica.relay import Relay, relay_to
from tests.instgenie.replica.scripted_replica import (
    OUTCOME,
    TIMINGS,
    WINDOW,
    ScriptedReplica,
    a_warm_order,
    an_order,
    until,
)

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def relay(service: ReplicaService, tmp_path: Path) -> AsyncIterator[Relay]:
    async with relay_to(service.addresses[0], tmp_path / "relay.sock") as relay:
        yield relay


@pytest_asyncio.fixture
async def far(relay: Relay) -> AsyncIterator[RemoteReplica]:
    """A front end on the other side of the relay."""
    remote = await RemoteReplica.connect(relay.address, settings=QUICK)
    yield remote
    await remote.close()


@asynccontextmanager
async def serving(scripted: ScriptedReplica, address: Address, **limits: Any) -> AsyncIterator[ReplicaService]:
    service = ReplicaService(scripted, [address], limits=ServiceLimits(**limits))
    await service.start()
    try:
        yield service
    finally:
        await service.close()


def ignore(_: object) -> None:
    """A report that nobody reads."""


async def test_edit_goes_on_while_the_connection_is_lost(
    far: RemoteReplica, relay: Relay, scripted: ScriptedReplica
) -> None:
    reports: list[StepReport] = []
    edit = asyncio.create_task(far.edit(an_order(), reports.append))
    begun = await scripted.begun("edit")
    begun.step(0)
    await far.stats()
    relay.cut()
    begun.step(1)
    await far.stats()  # over the next connection
    assert relay.connections == 2
    begun.step(2)
    begun.end.set_result(OUTCOME)
    assert await edit == OUTCOME
    assert [report.step for report in reports] == [0, 1, 2]
    assert scripted.begins["edit"] == 1


async def test_all_windows_are_told_after_a_lost_connection(
    far: RemoteReplica, relay: Relay, scripted: ScriptedReplica
) -> None:
    reports: list[WarmReport] = []
    warming = asyncio.create_task(far.warm(a_warm_order(), reports.append))
    begun = await scripted.begun("warm")
    windows = [WarmReport(n, 4, WINDOW.box, f"key{n}", 1, "cold") for n in range(1, 5)]
    begun.report(windows[0])
    await far.stats()
    relay.cut()
    begun.report(windows[1])
    begun.report(windows[2])
    await far.stats()
    begun.report(windows[3])
    begun.end.set_result(None)
    await warming
    assert reports == windows


@pytest.mark.parametrize("error", [None, MaskError("mask", "is empty")])
async def test_end_that_came_while_the_connection_was_lost(
    far: RemoteReplica, relay: Relay, scripted: ScriptedReplica, error: Exception | None
) -> None:
    edit = asyncio.create_task(far.edit(an_order(), ignore))
    begun = await scripted.begun("edit")
    target, relay.target = relay.target, None
    relay.cut()
    if error is None:
        begun.end.set_result(OUTCOME)
    else:
        begun.end.set_exception(error)
    await until(lambda: relay.connections >= 3)
    relay.target = target
    if error is None:
        assert await edit == OUTCOME
    else:
        with pytest.raises(MaskError, match="mask: is empty"):
            await edit
    assert scripted.begins["edit"] == 1


async def test_cancelled_while_the_connection_is_lost(
    far: RemoteReplica, relay: Relay, scripted: ScriptedReplica
) -> None:
    edit = asyncio.create_task(far.edit(an_order(), ignore))
    begun = await scripted.begun("edit")
    target, relay.target = relay.target, None
    relay.cut()
    await until(lambda: relay.connections >= 2)
    edit.cancel()
    await asyncio.wait({edit})
    relay.target = target
    async with asyncio.timeout(10):
        await begun.cancelled.wait()


async def test_new_front_end_fetches_what_the_last_one_ordered(
    service: ReplicaService, scripted: ScriptedReplica, relay: Relay
) -> None:
    """The first one vanishes without a word: one of its edits has ended by then, the other one runs."""
    first = await RemoteReplica.connect(relay.address, settings=RemoteSettings(reconnect_seconds=0.0))
    edits = [asyncio.create_task(first.edit(an_order(name), ignore)) for name in ("ended", "running")]
    begun = [await scripted.begun(name) for name in ("ended", "running")]
    relay.cut()
    for edit in edits:
        with pytest.raises(ReplicaError, match="is gone"):
            await edit
    begun[0].end.set_result(OUTCOME)
    second = await RemoteReplica.connect(service.addresses[0], settings=QUICK)
    assert await second.edit(an_order("ended"), ignore) == OUTCOME
    running = asyncio.create_task(second.edit(an_order("running"), ignore))
    await second.stats()
    begun[1].end.set_result(OUTCOME)
    assert await running == OUTCOME
    assert set(scripted.begins.values()) == {1}
    again = asyncio.create_task(second.edit(an_order("ended"), ignore))  # it was fetched: this is a new order
    (await scripted.begun("ended")).end.set_result(OUTCOME)
    assert await again == OUTCOME
    await second.close()
    await first.close()


async def test_orphans_are_given_up_after_a_while(scripted: ScriptedReplica, address: Address, tmp_path: Path) -> None:
    async with (
        serving(scripted, address, orphan_seconds=0.05) as service,
        relay_to(service.addresses[0], tmp_path / "relay.sock") as relay,
    ):
        remote = await RemoteReplica.connect(relay.address, settings=RemoteSettings(reconnect_seconds=0.0))
        edit = asyncio.create_task(remote.edit(an_order(), ignore))
        begun = await scripted.begun("edit")
        await remote.pin(["a"])
        relay.cut()
        await asyncio.wait({edit})
        async with asyncio.timeout(10):
            await begun.cancelled.wait()
        await until(lambda: scripted.asked[-1] == ("unpin", ["a"]))
        await remote.close()


async def test_another_process_at_the_address_fails_what_waits(
    far: RemoteReplica, relay: Relay, scripted: ScriptedReplica, tmp_path: Path
) -> None:
    other = Address(path=str(tmp_path / "other.sock"))
    async with serving(ScriptedReplica(), other):
        edits = [asyncio.create_task(far.edit(an_order(f"{n}"), ignore)) for n in range(8)]
        await scripted.begun("7")
        relay.target = other
        relay.cut()
        results = await asyncio.gather(*edits, return_exceptions=True)
    assert {type(result) for result in results} == {ReplicaError}
    assert all("another one has taken its place" in str(result) for result in results)
    assert "another one has taken its place" in await far.wait_closed()


async def test_replica_that_does_not_come_back(relay: Relay, scripted: ScriptedReplica) -> None:
    remote = await RemoteReplica.connect(relay.address, settings=RemoteSettings(reconnect_seconds=1.0))
    edit = asyncio.create_task(remote.edit(an_order(), ignore))
    await scripted.begun("edit")
    relay.target = None
    relay.cut()
    with pytest.raises(ReplicaError, match=r"in 1 s: no connection to the replica"):
        await edit
    assert remote.closed
    await remote.close()


async def test_attempt_that_is_cut_short_is_not_what_is_told(relay: Relay, scripted: ScriptedReplica) -> None:
    remote = await RemoteReplica.connect(
        relay.address, settings=RemoteSettings(reconnect_seconds=1.0, retry_max_seconds=0.05)
    )
    edit = asyncio.create_task(remote.edit(an_order(), ignore))
    await scripted.begun("edit")
    target, relay.target = relay.target, None
    relay.cut()
    await until(lambda: relay.connections >= 3)  # so that an attempt has failed
    relay.target = target
    relay.flowing.clear()  # the next ones last as long as they may
    with pytest.raises(ReplicaError, match=r"in 1 s: no connection to the replica"):
        await edit
    await remote.close()


async def test_replica_that_says_nothing_is_taken_for_lost(relay: Relay, scripted: ScriptedReplica) -> None:
    patience = RemoteSettings(reconnect_seconds=0.1, ping_seconds=0.01, silence_seconds=0.05)
    remote = await RemoteReplica.connect(relay.address, settings=patience)
    edit = asyncio.create_task(remote.edit(an_order(), ignore))
    await scripted.begun("edit")
    relay.flowing.clear()
    with pytest.raises(ReplicaError, match=r"nothing was heard of it for 0\.05 s"):
        await edit
    await remote.close()


async def test_pings_keep_a_quiet_connection(relay: Relay, scripted: ScriptedReplica) -> None:
    patience = RemoteSettings(ping_seconds=0.01, silence_seconds=2.0)
    remote = await RemoteReplica.connect(relay.address, settings=patience)
    edit = asyncio.create_task(remote.edit(an_order(), ignore))
    begun = await scripted.begun("edit")
    await asyncio.sleep(3.0)  # longer than silence would last
    begun.end.set_result(OUTCOME)
    assert await edit == OUTCOME
    assert relay.connections == 1
    await remote.close()


async def test_front_end_that_reads_nothing_costs_little_and_gets_its_results_later(
    scripted: ScriptedReplica, address: Address, tmp_path: Path
) -> None:
    large = EditOutcome(bytes(4 << 20), 8, 4, TIMINGS)
    async with (
        serving(scripted, address, unread_seconds=0.05) as service,
        relay_to(service.addresses[0], tmp_path / "relay.sock") as relay,
    ):
        remote = await RemoteReplica.connect(relay.address, settings=QUICK)
        edits = [asyncio.create_task(remote.edit(an_order(f"{n}"), ignore)) for n in range(3)]
        begun = [await scripted.begun(f"{n}") for n in range(3)]
        relay.flowing.clear()
        for one in begun:
            one.end.set_result(large)
        await until(lambda: not service.connections)
        relay.flowing.set()
        relay.cut()
        assert await asyncio.gather(*edits) == [large] * 3
        assert set(scripted.begins.values()) == {1}
        await remote.close()


async def test_results_beyond_the_bound_are_told_to_be_lost(
    scripted: ScriptedReplica, address: Address, tmp_path: Path
) -> None:
    async with (
        serving(scripted, address, kept_bytes=1000) as service,
        relay_to(service.addresses[0], tmp_path / "relay.sock") as relay,
    ):
        remote = await RemoteReplica.connect(relay.address, settings=QUICK)
        edits = [asyncio.create_task(remote.edit(an_order(f"{n}"), ignore)) for n in range(3)]
        begun = [await scripted.begun(f"{n}") for n in range(3)]
        target, relay.target = relay.target, None
        relay.cut()
        for one in begun:
            one.end.set_result(EditOutcome(bytes(400), 8, 4, TIMINGS))
        await until(lambda: relay.connections >= 3)
        relay.target = target
        (await scripted.begun("0")).end.set_result(OUTCOME)  # the oldest end is gone: the order is run again
        assert await edits[0] == OUTCOME
        assert [(await edit).image for edit in edits[1:]] == [bytes(400)] * 2
        await remote.close()
