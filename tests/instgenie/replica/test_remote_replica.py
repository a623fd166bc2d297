"""A replica across a socket: what is asked and answered, cancelled and refused."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from instgenie.balancer.step_costs import LoadSeconds, StepCosts, TokenSeconds
from instgenie.errors import (
    DeadlineError,
    InvalidInputError,
    MaskError,
    ParameterError,
    PictureError,
    ReplicaError,
    TemplateNotCachedError,
    TooManyPinsError,
    TooManyPixelsError,
)
from instgenie.model_settings import MAX_DRAWS, MAX_DRAWS_BYTES
from instgenie.orders import HeldTemplate, Output, Pixels, ReplicaStats, StepReport, WarmReport
from instgenie.replica.messages import MAX_BOXES, MAX_KEYS, PROTOCOL_VERSION
from instgenie.replica.remote_replica import RemoteReplica
from instgenie.replica.service import ReplicaService
from instgenie.replica.service_limits import ServiceLimits
from instgenie_cache.errors import ProtocolError
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.error_frames import error_fields
from instgenie_cache.wire.frames import encode_frame_head
from instgenie_cache.wire.handshake import SharedSecret
from tests.instgenie.replica.conftest import QUICK
from tests.instgenie.replica.scripted_replica import (
    CARD,
    OUTCOME,
    WINDOW,
    ScriptedReplica,
    a_warm_order,
    an_order,
    until,
)

pytestmark = pytest.mark.asyncio

ORDERS = [
    an_order(),
    an_order(picture=Pixels(8, 4, "RGBA", bytes(128), icc_profile=b"p" * 5000)),
    an_order(picture=Pixels(8, 4, "RGB", bytes(96), icc_profile=b"")),
    an_order(prompt="\ud83d " + "ä" * 31_000, template_prompt="x" * 32_000, seed=2**63 - 1, priority=-3),
    an_order(steps=7, guidance=3, strength=0.5, cache="only", crop=False, previews=2, deadline_seconds=1.5),
    an_order(output=Output("webp", 80, (16, 8)), namespace="acme", halo=2, feather=3, template_seed=9),
]


@pytest.mark.parametrize("order", ORDERS)
async def test_edit_arrives_as_it_was_ordered(remote: RemoteReplica, scripted: ScriptedReplica, order: Any) -> None:
    reports: list[StepReport] = []
    edit = asyncio.create_task(remote.edit(order, reports.append))
    begun = await scripted.begun("edit")
    assert begun.order == order
    begun.step(0)
    begun.step(1, b"a preview")
    begun.end.set_result(OUTCOME)
    assert await edit == OUTCOME
    assert reports == [StepReport(0, 4), StepReport(1, 4, b"a preview")]


@pytest.mark.parametrize("boxes", [None, ((0, 0, 4, 4), (2, 2, 8, 4))])
async def test_warm(remote: RemoteReplica, scripted: ScriptedReplica, boxes: Any) -> None:
    reports: list[WarmReport] = []
    order = a_warm_order(boxes=boxes, steps=3, template_prompt="a tree", namespace="acme")
    warming = asyncio.create_task(remote.warm(order, reports.append))
    begun = await scripted.begun("warm")
    assert begun.order == order
    begun.report(WINDOW)
    begun.end.set_result(None)
    await warming
    assert reports == [WINDOW]


@pytest.mark.parametrize(
    "error",
    [
        InvalidInputError("prompt", "is \ud83d"),
        PictureError("picture", "is none"),
        TooManyPixelsError("picture", "has too many"),
        MaskError("mask", "is empty"),
        ParameterError("steps", "0 is not in 1..1000"),
        TemplateNotCachedError("no records"),
        DeadlineError("too late"),
        TooManyPinsError("2 are pinned, 2 may be"),
        ReplicaError("it broke"),
    ],
)
async def test_errors_come_as_themselves(remote: RemoteReplica, scripted: ScriptedReplica, error: Exception) -> None:
    edit = asyncio.create_task(remote.edit(an_order(), lambda _: None))
    (await scripted.begun("edit")).end.set_exception(error)
    with pytest.raises(type(error)) as caught:
        await edit
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error).replace("\ud83d", r"\ud83d")
    if isinstance(error, InvalidInputError):
        assert getattr(caught.value, "parameter", None) == error.parameter


async def test_what_is_no_error_of_ours_is_told_by_its_name(remote: RemoteReplica, scripted: ScriptedReplica) -> None:
    edit = asyncio.create_task(remote.edit(an_order(), lambda _: None))
    (await scripted.begun("edit")).end.set_exception(RuntimeError("oh"))
    with pytest.raises(ReplicaError, match="RuntimeError: oh"):
        await edit


async def test_questions_about_templates(remote: RemoteReplica, scripted: ScriptedReplica) -> None:
    assert await remote.pin(["a", "b", "a"]) == 2
    assert await remote.held(["b", "none"]) == {"b": HeldTemplate(1, 3), "none": HeldTemplate(None, 3)}
    await remote.unpin(["a"])
    await remote.forget(["b"])
    assert scripted.asked == [("pin", ["a", "b"]), ("held", ["b", "none"]), ("unpin", ["a"]), ("forget", ["b"])]
    scripted.error = ReplicaError("2 templates cannot be dropped")
    with pytest.raises(ReplicaError, match="2 templates cannot be dropped"):
        await remote.forget(["a"])


async def test_questions_are_asked_in_the_order_of_the_calls(remote: RemoteReplica, scripted: ScriptedReplica) -> None:
    many = [f"{n:032x}" for n in range(20_000)]
    await asyncio.gather(remote.pin(many), remote.held(["x"]), remote.unpin(many), remote.forget(["x"]))
    assert [what for what, _ in scripted.asked] == ["pin", "pin", "held", "unpin", "unpin", "forget"]  # in parts
    assert [key for _, some in scripted.asked[:2] for key in some] == many


async def test_a_model_may_list_as_much_as_its_settings_take(
    scripted: ScriptedReplica, service: ReplicaService
) -> None:
    scripted.model = replace(CARD, draws=("ä" * (MAX_DRAWS_BYTES // MAX_DRAWS // 2),) * MAX_DRAWS)
    remote = await RemoteReplica.connect(service.addresses[0], client="test", settings=QUICK)
    assert remote.model == scripted.model
    await remote.close()


async def test_card_stats_and_speed(remote: RemoteReplica, scripted: ScriptedReplica) -> None:
    assert remote.model == CARD
    assert await remote.stats() == ReplicaStats(running=2, busy_seconds=1.5)
    order = an_order()
    assert remote.predicted_seconds(order) == pytest.approx(scripted.predicted_seconds(order))
    scripted.cost.seconds_per_token = 0.5
    edit = asyncio.create_task(remote.edit(order, lambda _: None))
    (await scripted.begun("edit")).end.set_result(OUTCOME)
    await edit
    assert remote.predicted_seconds(order) == pytest.approx(scripted.predicted_seconds(order))


async def test_step_costs_come_with_the_hello_with_stats_and_with_ends(
    service: ReplicaService, scripted: ScriptedReplica
) -> None:
    """In proportion to tokens, where the replica does not say what steps take; else as it says."""
    first = StepCosts(1.0, TokenSeconds(0.5), TokenSeconds(0.25), {"host": LoadSeconds(0.0, 1e-9)}, 2.0)
    remote = await RemoteReplica.connect(service.addresses[0], settings=QUICK)
    assert remote.costs.masked.row == pytest.approx(0.25)
    scripted.costs = first
    await remote.stats()
    assert remote.costs == first
    scripted.costs = replace(first, base_seconds=3.0)
    edit = asyncio.create_task(remote.edit(an_order(), lambda _: None))
    (await scripted.begun("edit")).end.set_result(OUTCOME)
    await edit
    assert remote.costs == replace(first, base_seconds=3.0)
    scripted.costs = replace(first, base_seconds=4.0)
    other = await RemoteReplica.connect(service.addresses[0], settings=QUICK)
    assert other.costs == replace(first, base_seconds=4.0)
    await remote.close()
    await other.close()


async def test_cancelled_call_cancels_the_edit(remote: RemoteReplica, scripted: ScriptedReplica) -> None:
    edit = asyncio.create_task(remote.edit(an_order(), lambda _: None))
    begun = await scripted.begun("edit")
    edit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await edit
    async with asyncio.timeout(10):
        await begun.cancelled.wait()
    again = asyncio.create_task(remote.edit(an_order(), lambda _: None))  # the same order, anew
    (await scripted.begun("edit")).end.set_result(OUTCOME)
    assert await again == OUTCOME
    assert scripted.begins["edit"] == 2


async def test_one_of_two_who_wait_for_an_order_may_leave(remote: RemoteReplica, scripted: ScriptedReplica) -> None:
    first, second = (asyncio.create_task(remote.edit(an_order(), lambda _: None)) for _ in "ab")
    begun = await scripted.begun("edit")
    first.cancel()
    await asyncio.wait({first})
    await remote.stats()  # by when the service knows
    begun.end.set_result(OUTCOME)
    assert await second == OUTCOME
    assert scripted.begins["edit"] == 1


async def test_other_content_under_the_same_id_is_refused(remote: RemoteReplica, scripted: ScriptedReplica) -> None:
    edit = asyncio.create_task(remote.edit(an_order(), lambda _: None))
    begun = await scripted.begun("edit")
    with pytest.raises(ReplicaError, match="another order with the id edit"):
        await remote.edit(an_order(seed=1), lambda _: None)
    begun.end.set_result(OUTCOME)
    assert await edit == OUTCOME


async def test_reports_that_raise_do_not_harm_the_connection(
    remote: RemoteReplica, scripted: ScriptedReplica, caplog: pytest.LogCaptureFixture
) -> None:
    def report(_: StepReport) -> None:
        raise RuntimeError("a caller's mistake")

    edit = asyncio.create_task(remote.edit(an_order(), report))
    begun = await scripted.begun("edit")
    begun.step(0)
    begun.end.set_result(OUTCOME)
    assert await edit == OUTCOME
    assert "a caller's mistake" in caplog.text


@pytest.mark.parametrize(
    "order",
    [
        an_order(seed=2**70),
        an_order(namespace="\ud83d"),
        a_warm_order(boxes=((0, 0, 1, 1),) * (MAX_BOXES + 1)),
        an_order("x" * 70_000),
    ],
)
async def test_what_cannot_be_sent_is_the_callers_fault(remote: RemoteReplica, order: Any) -> None:
    with pytest.raises(InvalidInputError):
        await (remote.warm(order, lambda _: None) if order.id == "warm" else remote.edit(order, lambda _: None))
    assert (await remote.stats()).running == 2


async def test_more_keys_than_a_question_may_have(remote: RemoteReplica, scripted: ScriptedReplica) -> None:
    """20,000 templates of a server have many windows each."""
    keys = [*map(str, range(MAX_KEYS + 1)), "0"]
    held = await remote.held(keys)
    assert {key: one.num_bytes for key, one in held.items()} == {key: len(key) for key in keys}
    pinned = keys[: ServiceLimits().pins]
    for _ in range(2):
        assert await remote.pin(pinned) == len(pinned)
    with pytest.raises(TooManyPinsError, match=f"{len(pinned)} templates are pinned, {len(pinned)} may be"):
        await remote.pin(keys)
    await remote.unpin(keys)
    await remote.forget(keys)
    for what in ("held", "unpin", "forget"):
        assert {key for op, some in scripted.asked if op == what for key in some} == set(keys)


async def test_more_keys_than_a_message_has_are_asked_about_though_nobody_waits(
    remote: RemoteReplica, scripted: ScriptedReplica
) -> None:
    """Who is late pins nevertheless."""
    keys = {str(number) for number in range(MAX_KEYS)}
    asked, go = asyncio.Event(), asyncio.Event()
    pin = scripted.pin

    async def slow(some: Iterable[str]) -> int:
        asked.set()
        await go.wait()
        return await pin(some)

    scripted.pin = slow  # type: ignore[method-assign, assignment]
    pinning = asyncio.create_task(remote.pin(keys))
    await asked.wait()
    pinning.cancel()
    await asyncio.wait({pinning})
    go.set()
    await until(lambda: {key for what, some in scripted.asked if what == "pin" for key in some} == keys)


async def test_id_that_is_too_long_is_told(remote: RemoteReplica) -> None:
    with pytest.raises(ReplicaError, match="an order's id has 1 to 200 characters, not 201"):
        await remote.edit(an_order("x" * 201), lambda _: None)


async def test_drain(remote: RemoteReplica, scripted: ScriptedReplica) -> None:
    edit = asyncio.create_task(remote.edit(an_order(), lambda _: None))
    begun = await scripted.begun("edit")
    draining = asyncio.create_task(remote.drain())
    await remote.stats()
    assert remote.is_draining
    with pytest.raises(ReplicaError, match="the replica is draining: it takes no new orders"):
        await remote.edit(an_order("another"), lambda _: None)
    again = asyncio.create_task(remote.edit(an_order(), lambda _: None))  # one that runs may be attached to
    await remote.stats()
    assert not draining.done()
    begun.end.set_result(OUTCOME)
    await draining
    assert scripted.is_draining
    assert [await edit, await again] == [OUTCOME, OUTCOME]


async def test_closing_gives_up_orders_and_pins(remote: RemoteReplica, scripted: ScriptedReplica) -> None:
    edit = asyncio.create_task(remote.edit(an_order(), lambda _: None))
    begun = await scripted.begun("edit")
    await remote.pin(["a"])
    await remote.close()
    with pytest.raises(ReplicaError, match="the replica was closed"):
        await edit
    async with asyncio.timeout(10):
        await begun.cancelled.wait()
    assert scripted.asked[-1] == ("unpin", ["a"])
    assert remote.closed
    assert await remote.wait_closed() == "the replica was closed"
    with pytest.raises(ReplicaError, match="the replica was closed"):
        await remote.stats()
    await remote.close()


async def test_service_that_closes_fails_what_runs(
    remote: RemoteReplica, scripted: ScriptedReplica, service: ReplicaService
) -> None:
    edit = asyncio.create_task(remote.edit(an_order(), lambda _: None))
    await scripted.begun("edit")
    await service.close()
    with pytest.raises(ReplicaError, match="the replica was closed"):
        await edit
    async with asyncio.timeout(5):
        assert "has ended" in await remote.wait_closed()


async def test_tcp_takes_a_secret(scripted: ScriptedReplica) -> None:
    anywhere, secret = Address.parse("127.0.0.1:0"), SharedSecret("test", b"sixteen bytes or")
    with pytest.raises(ValueError, match="needs a secret"):
        ReplicaService(scripted, [anywhere])
    service = ReplicaService(scripted, [anywhere], secrets={"test": secret})
    await service.start()
    try:
        [address] = service.addresses
        for wrong in (None, SharedSecret("test", b"another sixteen b")):
            with pytest.raises(ReplicaError, match="secret"):
                await RemoteReplica.connect(address, secret=wrong)
        remote = await RemoteReplica.connect(str(address), secret=secret)
        edit = asyncio.create_task(remote.edit(an_order(), lambda _: None))
        (await scripted.begun("edit")).end.set_result(OUTCOME)
        assert await edit == OUTCOME
        await remote.close()
    finally:
        await service.close()


async def test_no_replica_there(address: Address) -> None:
    with pytest.raises(ReplicaError, match="no replica at unix:"):
        await RemoteReplica.connect(address)


async def test_a_replica_of_another_version_is_told_apart(address: Address) -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        error = ProtocolError("the client speaks version 99 of the protocol, the service 1")
        writer.write(encode_frame_head(error_fields(1, error), 0))
        writer.close()

    async with await asyncio.start_unix_server(old, address.path):
        message = f"no replica that speaks version {PROTOCOL_VERSION} at {address}: .*the service 1"
        with pytest.raises(ReplicaError, match=message):
            await RemoteReplica.connect(address)


@pytest.mark.parametrize("count", [-1, 2, 1e300, None])
async def test_a_count_that_cannot_be(remote: RemoteReplica, scripted: ScriptedReplica, count: Any) -> None:
    async def pin(_: object) -> Any:
        return count

    scripted.pin = pin  # type: ignore[assignment, method-assign]
    with pytest.raises(ReplicaError, match=f"a count of 1 keys is not to be {re.escape(repr(count))}"):
        await remote.pin(["key"])


async def test_stats_that_cannot_be_are_refused_and_change_nothing(
    remote: RemoteReplica, scripted: ScriptedReplica
) -> None:
    async def stats() -> ReplicaStats:
        return ReplicaStats(waiting=-1)

    costs = remote.costs
    scripted.stats = stats  # type: ignore[method-assign]
    with pytest.raises(ReplicaError, match=r"ReplicaStats\.waiting is -1"):
        await remote.stats()
    assert remote.costs is costs


async def test_client_needs_no_torch() -> None:
    code = "import sys, instgenie.replica.remote_replica; sys.exit('torch' in sys.modules)"
    assert (await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], check=False)).returncode == 0
