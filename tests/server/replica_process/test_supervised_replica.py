"""One replica over the lives of several processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from instgenie.errors import MaskError, ReplicaAwayError, ReplicaError, ReplicaLostError
from instgenie.orders import EditOrder, HeldTemplate, Pixels, WarmOrder
from instgenie_server.processes.reminders import Reminders
from instgenie_server.processes.restarts import Restarts
from instgenie_server.replica_process.supervised_replica import Elsewhere, SupervisedReplica
from tests.server.replica_process.fake_host import FakeHost

ORDER = EditOrder(id="a", picture=Pixels(1, 1, "RGB", b"abc"), mask=b"\1", prompt="", seed=1)
WARM = WarmOrder(id="t", picture=ORDER.picture)


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest_asyncio.fixture
async def replica(host: FakeHost) -> AsyncIterator[SupervisedReplica]:
    async with SupervisedReplica(host, host.connect, Restarts(lambda: 0.0, first_seconds=0.001)) as replica:
        yield replica


async def absence(replica: SupervisedReplica) -> None:
    """Wait until it is gone."""
    while replica.presence.is_there:  # noqa: ASYNC110
        await asyncio.sleep(0)


async def test_it_is_there_once_the_process_is(host: FakeHost, replica: SupervisedReplica) -> None:
    starting = asyncio.create_task(replica.start())
    await asyncio.sleep(0)
    assert not replica.presence.is_there
    with pytest.raises(ReplicaAwayError, match="not there yet"):
        await replica.edit(ORDER, lambda _: None)
    host.run()
    await starting
    assert replica.model.name == "scripted"
    assert replica.predicted_seconds(ORDER) == 1
    editing = asyncio.create_task(replica.edit(ORDER, lambda _: None))
    (await host.links[0].edits.get()).succeed()
    assert (await editing).image
    assert (await replica.stats()).running == 0
    assert (replica.restarts, replica.renewals) == (0, 0)


async def test_one_that_is_out_of_reach_is_told_again(host: FakeHost) -> None:
    pauses = Restarts(lambda: 0.0, first_seconds=0.001)
    # Due with the first attempt and with the third, as it goes on for no time that a test could rely on.
    due = iter([True, False, True])

    class Scripted(Reminders):
        def is_due(self, seconds: float) -> bool:
            assert seconds >= 0
            return next(due)

    host.failures = 3
    with capture_logs() as logged:
        async with SupervisedReplica(host, host.connect, pauses, reminders=Scripted) as replica:
            starting = asyncio.create_task(replica.start())
            life = host.run()
            for _ in range(host.failures):  # the same process as far as anybody knows
                host.lives.put_nowait(life)
            await starting
            assert replica.away_seconds == 0
    told = [line for line in logged if line["event"].startswith("the replica cannot be reached")]
    assert [line["log_level"] for line in told] == ["warning", "debug", "warning"]
    assert all(line["reason"] == "nobody listens" and line["seconds"] >= 0 for line in told)


@pytest.mark.parametrize(("says_so", "level"), [(True, "info"), (False, "warning")])
async def test_one_that_was_told_to_end_is_no_reason_to_warn(
    host: FakeHost, replica: SupervisedReplica, says_so: bool, level: str
) -> None:
    host.run()
    await replica.start()
    with capture_logs() as logged:
        if says_so:
            host.links[0].leaving.set()
            await asyncio.sleep(0)
        host.links[0].cut()
        while "the replica is gone" not in [line["event"] for line in logged]:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert {line["log_level"] for line in logged} == {level}


async def test_what_it_was_busy_with_is_lost_when_its_process_ends(host: FakeHost, replica: SupervisedReplica) -> None:
    life = host.run()
    await replica.start()
    calls = [asyncio.create_task(replica.edit(ORDER, lambda _: None)) for _ in range(3)]
    calls_of_warm = asyncio.create_task(replica.warm(WARM, lambda _: None))
    for _ in calls:
        await host.links[0].edits.get()
    await host.links[0].warms.get()
    host.end(life)
    for call in (*calls, calls_of_warm):
        with pytest.raises(ReplicaLostError):
            await call
    assert not replica.presence.is_there
    assert host.links[0].closed
    with pytest.raises(ReplicaLostError, match="signal 9"):
        await replica.edit(ORDER, lambda _: None)
    with pytest.raises(ReplicaLostError):
        await replica.stats()
    await replica.drain()
    assert (replica.model.name, replica.predicted_seconds(ORDER)) == ("scripted", 1)  # of the last one
    host.run()
    await replica.presence.wait()
    assert (replica.restarts, replica.renewals) == (1, 0)
    editing = asyncio.create_task(replica.edit(ORDER, lambda _: None))
    (await host.links[1].edits.get()).succeed()
    await editing


async def test_who_asks_again_at_once_is_not_sent_to_the_one_that_went(
    host: FakeHost, replica: SupervisedReplica
) -> None:
    """Before anybody else noticed: all attempts would be used up in a moment."""
    host.run()
    await replica.start()
    editing = asyncio.create_task(replica.edit(ORDER, lambda _: None))
    await host.links[0].edits.get()
    host.links[0].cut()
    with pytest.raises(ReplicaLostError):
        await editing
    assert not replica.presence.is_there


async def test_errors_of_a_replica_that_stays_are_its_own(host: FakeHost, replica: SupervisedReplica) -> None:
    host.run()
    await replica.start()
    for error in (ReplicaError("out of memory"), MaskError("mask", "is empty")):
        editing = asyncio.create_task(replica.edit(ORDER, lambda _: None))
        (await host.links[0].edits.get()).fail(error)
        with pytest.raises(type(error)) as caught:
            await editing
        assert caught.value is error
    assert replica.presence.is_there


async def test_one_that_drains_finishes_and_gets_nothing_more(host: FakeHost, replica: SupervisedReplica) -> None:
    life = host.run()
    await replica.start()
    link = host.links[0]
    running = asyncio.create_task(replica.edit(ORDER, lambda _: None))
    edit = await link.edits.get()
    refused = asyncio.create_task(replica.edit(ORDER, lambda _: None))
    link.leaving.set()
    (await link.edits.get()).fail(ReplicaError("it takes no more orders"))
    with pytest.raises(ReplicaLostError):
        await refused
    assert not replica.presence.is_there
    edit.succeed()
    assert (await running).image
    host.end(life)
    host.run()
    await replica.presence.wait()
    assert len(host.links) == 2


async def test_one_that_drains_is_away_before_an_edit_finds_out(host: FakeHost, replica: SupervisedReplica) -> None:
    life = host.run()
    await replica.start()
    running = asyncio.create_task(replica.edit(ORDER, lambda _: None))
    edit = await host.links[0].edits.get()
    host.links[0].leaving.set()
    await absence(replica)
    with pytest.raises(ReplicaLostError):
        await replica.edit(ORDER, lambda _: None)
    edit.succeed()
    assert (await running).image
    host.drains = True
    host.end(life)
    life = host.run()
    while len(host.links) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert not replica.presence.is_there  # the next one drains already
    host.drains = False
    host.end(life)
    host.run()
    await replica.presence.wait()


async def test_pins_are_made_again(host: FakeHost, replica: SupervisedReplica) -> None:
    life = host.run()
    await replica.start()
    host.links[0].records = dict.fromkeys("ab", HeldTemplate(1, 0))
    assert await replica.pin(["a", "b", "c"]) == 2
    await replica.unpin(["b"])
    await replica.forget(["c"])
    host.end(life)
    await absence(replica)
    host.run()
    await replica.presence.wait()
    assert host.links[1].pinned == {"a"}


async def test_pins_that_hang_keep_no_edits_waiting(host: FakeHost) -> None:
    async with SupervisedReplica(host, host.connect, answer_seconds=0.01) as replica:
        life = host.run()
        await replica.start()
        await replica.pin(["a"])
        host.hangs = True
        host.end(life)
        await absence(replica)
        host.run()
        async with asyncio.timeout(10):
            await replica.presence.wait()


async def test_what_is_unpinned_while_pins_are_made_again(host: FakeHost, replica: SupervisedReplica) -> None:
    life = host.run()
    await replica.start()
    await replica.pin(["a", "b"])
    host.end(life)
    await absence(replica)
    host.run()
    while len(host.links) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await replica.unpin(["a"])
    await replica.presence.wait()
    assert host.links[1].pinned == {"b"}


async def test_what_is_dropped_while_pins_are_made_again(host: FakeHost, replica: SupervisedReplica) -> None:
    """It is not there for edits yet, and has dropped already what was dropped before."""
    life = host.run()
    await replica.start()
    await replica.pin(["a", "b"])
    host.end(life)
    await absence(replica)
    replica.forget_later(["c"])
    host.run()
    while not (len(host.links) == 2 and host.links[1].forgotten):  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert not replica.presence.is_there
    replica.forget_later(["a"])
    await replica.presence.wait()
    assert host.links[1].forgotten == ["c", "a"]
    assert host.links[1].pinned == {"b"}


async def test_what_is_pinned_is_not_dropped_any_more(host: FakeHost, replica: SupervisedReplica) -> None:
    life = host.run()
    await replica.start()
    host.end(life)
    await absence(replica)
    replica.forget_later(["a", "b", "c", "d"])
    replica.keep_pinned(["a"])
    replica.was_recorded(["b"])
    pinning = asyncio.create_task(replica.pin(["c"]))
    await asyncio.sleep(0)
    host.run()
    await pinning
    assert host.links[1].forgotten == ["d"]
    assert host.links[1].pinned == {"a", "c"}


async def test_questions_that_a_replica_takes_with_it(host: FakeHost, replica: SupervisedReplica) -> None:
    """They are answered by 503, as edits are: it comes back."""
    host.hangs = True
    host.run()
    await replica.start()
    asking = [asyncio.create_task(replica.held(["a"])), asyncio.create_task(replica.pin(["a"]))]
    await asyncio.sleep(0)
    host.links[0].cut()
    for question in asking:
        with pytest.raises(ReplicaLostError):
            await question


async def test_one_that_is_there_and_does_not_answer_is_given_up(host: FakeHost) -> None:
    pauses = Restarts(lambda: 0.0, first_seconds=0.001)
    async with SupervisedReplica(host, host.connect, pauses, give_up_seconds=0.01) as replica:
        host.failures = 1000
        life = host.run()
        for _ in range(20):
            host.lives.put_nowait(life)
        starting = asyncio.create_task(replica.start())
        async with asyncio.timeout(10):
            while not host.given_up:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert host.given_up[0] is life
        host.failures = 0
        host.run()
        await starting


async def test_questions_wait_for_it(host: FakeHost, replica: SupervisedReplica) -> None:
    life = host.run()
    await replica.start()
    host.end(life)
    await absence(replica)
    asking = asyncio.create_task(replica.held(["a"]))
    host.run()
    assert (await asking)["a"].num_bytes is None


async def test_questions_do_not_wait_for_ever(host: FakeHost) -> None:
    async with SupervisedReplica(host, host.connect, answer_seconds=0.01) as replica:
        host.end(host.run())
        await replica.start()
        await absence(replica)
        with pytest.raises(ReplicaLostError):
            await replica.pin(["a"])


async def test_it_connects_until_somebody_listens(host: FakeHost, replica: SupervisedReplica) -> None:
    host.failures = 3
    for _ in range(4):
        host.run()
    await replica.start()
    assert len(host.links) == 1


async def test_one_elsewhere_is_connected_again(host: FakeHost) -> None:
    pauses = Restarts(lambda: 0.0, first_seconds=0.001)
    async with SupervisedReplica(Elsewhere(), host.connect, pauses) as replica:
        await replica.start()
        host.links[0].cut()
        await absence(replica)
        await replica.presence.wait()
        assert len(host.links) == 2
    assert host.links[1].closed


async def test_a_process_that_is_gone_once_it_is_connected(host: FakeHost, replica: SupervisedReplica) -> None:
    host.end(host.run())
    host.run()
    await replica.start()
    await replica.presence.wait()
    assert len(host.links) <= 2


async def test_closed_twice(host: FakeHost) -> None:
    replica = SupervisedReplica(host, host.connect)
    host.run()
    await replica.start()
    await replica.close()
    await replica.close()
    assert host.links[0].closed
    with pytest.raises(ReplicaLostError):
        await replica.edit(ORDER, lambda _: None)
