"""Messages there and back, and what is none."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie.balancer.step_costs import LoadSeconds, StepCosts, TokenSeconds
from instgenie.errors import ReplicaError
from instgenie.fidelity import MeasuredSetting
from instgenie.orders import (
    EditOrder,
    EditOutcome,
    HeldTemplate,
    ModelCard,
    Output,
    PhaseTimings,
    Pixels,
    ReplicaStats,
    StepReport,
    WarmOrder,
    WarmReport,
)
from instgenie.replica.fields import read_fields, to_fields
from instgenie.replica.messages import (
    PROTOCOL_VERSION,
    Body,
    Hello,
    Welcome,
    decode_error,
    decode_held,
    decode_keys,
    decode_order,
    decode_outcome,
    decode_report,
    encode_held,
    encode_keys,
    encode_order,
    encode_outcome,
    encode_report,
    order_digest,
    read_speed,
)
from instgenie.replica.speed import Speed
from instgenie_cache import TierName, content_digest
from instgenie_cache.errors import ProtocolError
from instgenie_cache.wire.frames import decode_header, encode_frame_head
from tests.instgenie.replica.scripted_replica import CARD, OUTCOME, WINDOW, a_warm_order, an_order

SPEED = Speed(
    0.5,
    StepCosts(
        0.25,
        TokenSeconds(1e-5, 1e-9, 1e-6),
        TokenSeconds(2e-5, 2e-9),
        {"host": LoadSeconds(0.0, 1e-10), "disk": LoadSeconds(0.001, 1e-9)},
        0.125,
    ),
)
TEXTS = st.text(st.characters(), max_size=30)  # half characters, too
NAMES = st.text(max_size=20).filter(lambda text: text.isprintable())
WHOLE = st.integers(-(2**63), 2**63 - 1)
NUMBERS = st.floats(allow_nan=False)
PIXELS = st.builds(Pixels, WHOLE, WHOLE, st.sampled_from(["RGB", "RGBA"]), st.binary(), st.none() | st.binary())
EDITS = st.builds(
    EditOrder,
    id=NAMES.filter(bool),
    picture=PIXELS,
    mask=st.binary(),
    prompt=TEXTS,
    seed=WHOLE,
    steps=st.none() | WHOLE,
    guidance=st.none() | NUMBERS,
    strength=NUMBERS,
    template_prompt=TEXTS,
    cache=st.sampled_from(["auto", "only", "off"]),
    crop=st.booleans(),
    output=st.builds(Output, st.sampled_from(["png", "webp", "jpeg"]), WHOLE, st.none() | st.tuples(WHOLE, WHOLE)),
    priority=WHOLE,
    namespace=NAMES,
    deadline_seconds=st.none() | NUMBERS,
)
BOXES = st.lists(st.tuples(WHOLE, WHOLE, WHOLE, WHOLE), max_size=5).map(tuple)
WARMS = st.builds(WarmOrder, id=NAMES.filter(bool), picture=PIXELS, boxes=st.none() | BOXES, template_prompt=TEXTS)
PLAIN = st.recursive(
    st.none() | st.booleans() | WHOLE | NUMBERS | NAMES | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


def sent(body: Body) -> tuple[dict[str, Any], bytes]:
    """As it comes out at the other end of a connection."""
    payload = b"".join(body.payload)
    head = encode_frame_head({"id": 1, **body.fields}, len(payload))
    return decode_header(head[16:]), payload


@given(EDITS | WARMS)
def test_orders(order: EditOrder | WarmOrder) -> None:
    header, payload = sent(encode_order(order))
    assert decode_order(header, memoryview(payload)) == order


@given(EDITS | WARMS, st.data())
def test_orders_that_are_malformed(order: EditOrder | WarmOrder, data: st.DataObject) -> None:
    """Whatever a field is replaced by, the order is read or refused: nothing else is raised."""
    header, payload = sent(encode_order(order))
    place = data.draw(st.sampled_from([header, header["order"], header["order"].get("output") or header]))
    place[data.draw(st.sampled_from(sorted(place)) | NAMES)] = data.draw(PLAIN)
    try:
        decode_order(header, memoryview(payload))
    except ProtocolError:
        return
    order_digest(header, memoryview(payload))


def test_orders_lack_nothing() -> None:
    for order in (an_order(), a_warm_order()):
        header, payload = sent(encode_order(order))
        for name in header["order"]:
            fields = {other: value for other, value in header["order"].items() if other != name}
            with pytest.raises(ProtocolError):
                decode_order(header | {"order": fields}, memoryview(payload))
        with pytest.raises(ProtocolError, match="parts of"):
            decode_order(header, memoryview(payload + b"x"))


def test_digest_is_the_contents() -> None:
    def digest(order: EditOrder | WarmOrder, number: int) -> str:
        header, payload = sent(encode_order(order))
        return order_digest(header | {"id": number}, memoryview(payload))

    same = {digest(an_order(), number) for number in (1, 2)}
    others: list[EditOrder | WarmOrder] = [
        an_order(seed=1),
        an_order(mask=b"\x01" * 32),
        an_order(prompt="a red appl", template_prompt="e"),
        an_order(output=Output("webp")),
        a_warm_order("edit"),
    ]
    assert len(same | {digest(order, 1) for order in others}) == 1 + len(others)


@pytest.mark.parametrize("report", [StepReport(1, 4), StepReport(1, 4, b"preview"), WINDOW])
def test_reports(report: StepReport | WarmReport) -> None:
    assert decode_report(*sent(encode_report(report))) == report


@pytest.mark.parametrize(
    "header",
    [
        {"event": "else"},
        {"event": ["step"]},
        {"event": "step", "step": 1},
        {"event": "step", "step": 1, "steps": True},
        {"event": "window", "number": 1},
    ],
)
def test_reports_that_are_malformed(header: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        decode_report({"id": 1} | header, b"")


def test_outcomes() -> None:
    assert decode_outcome(*sent(encode_outcome(OUTCOME, SPEED))) == (OUTCOME, SPEED)
    assert decode_outcome(*sent(encode_outcome(None, SPEED))) == (None, SPEED)


@given(
    st.dictionaries(st.sampled_from(["end", "timings", "width", "height", "seconds_per_token", "costs", "x"]), PLAIN)
)
def test_outcomes_that_are_malformed(fields: dict[str, Any]) -> None:
    header, payload = sent(encode_outcome(OUTCOME, SPEED))
    try:
        outcome, speed = decode_outcome(header | fields, payload)
    except ProtocolError:
        return
    assert speed.seconds_per_token >= 0
    assert outcome is None or outcome.timings == OUTCOME.timings


SECONDS = st.floats(0, 1e3)
TIERS: list[TierName] = ["host", "disk", "object"]


@given(
    st.builds(
        Speed,
        SECONDS,
        st.builds(
            StepCosts,
            SECONDS,
            st.builds(TokenSeconds, SECONDS, SECONDS, SECONDS),
            st.builds(TokenSeconds, SECONDS),
            st.dictionaries(st.sampled_from(TIERS), st.builds(LoadSeconds, SECONDS, st.floats(0, 1))),
            SECONDS,
        ),
    )
)
def test_speeds(speed: Speed) -> None:
    header, _ = sent(Body({"stats": {}, **to_fields(speed)}))
    assert read_speed(header) == speed


@pytest.mark.parametrize("wrong", [-1.0, 1e300, float("nan"), float("inf"), "1", None, True, {"row": 1.0}])
@pytest.mark.parametrize(
    "place",
    [
        ("seconds_per_token",),
        ("costs",),
        ("costs", "base_seconds"),
        ("costs", "masked"),
        ("costs", "masked", "pair"),
        ("costs", "full", "row"),
        ("costs", "edge_seconds"),
        ("costs", "loads"),
        ("costs", "loads", "disk"),
        ("costs", "loads", "disk", "byte"),
    ],
)
def test_speeds_that_cannot_be(place: tuple[str, ...], wrong: Any) -> None:
    fields = to_fields(SPEED)
    inner = fields
    for name in place[:-1]:
        inner = inner[name]
    assert place[-1] in inner
    inner[place[-1]] = wrong
    with pytest.raises(ProtocolError):
        read_speed(fields)


def test_speeds_of_tiers_that_there_are_not() -> None:
    fields = to_fields(SPEED)
    fields["costs"]["loads"]["tape"] = fields["costs"]["loads"].pop("disk")
    with pytest.raises(ProtocolError, match=r"StepCosts\.loads is not to be 'tape'"):
        read_speed(fields)
    with pytest.raises(ProtocolError, match="Speed lacks 'costs'"):
        read_speed({"seconds_per_token": 0.5})


@given(st.dictionaries(st.sampled_from(["error", "message", "parameter"]), PLAIN))
def test_errors_whatever_they_are(fields: dict[str, Any]) -> None:
    assert str(decode_error(fields)) is not None


def test_unknown_errors_are_the_replicas() -> None:
    error = decode_error({"error": "new", "message": "later"})
    assert (type(error), str(error)) == (ReplicaError, "later")


@given(st.lists(NAMES, unique=True))
def test_keys_and_what_is_held(keys: list[str]) -> None:
    assert decode_keys(memoryview(b"".join(encode_keys(keys)))) == keys
    held = {key: HeldTemplate(None if i % 2 else i, i) for i, key in enumerate(keys)}
    assert decode_held(memoryview(b"".join(encode_held(held, keys))), keys) == held


@given(st.binary(max_size=50) | PLAIN.map(msgpack.packb))
def test_keys_that_are_malformed(payload: bytes) -> None:
    try:
        keys = decode_keys(memoryview(payload))
    except ProtocolError:
        return
    assert all(isinstance(key, str) for key in keys)


def test_greetings() -> None:
    welcome = Welcome(instance="a", model=CARD, is_draining=False, seconds_per_token=0.5, costs=SPEED.costs)
    assert welcome.speed == SPEED
    assert read_fields(Welcome, to_fields(welcome)) == welcome
    for wrong in ({}, {"version": 1, "client": "x"}, {"version": "1", "client": "x", "front_end": "y"}, None):
        with pytest.raises(ProtocolError, match="Hello"):
            read_fields(Hello, wrong)
    with pytest.raises(ProtocolError, match=r"ModelCard\.steps"):
        read_fields(ModelCard, to_fields(CARD) | {"steps": True})


def test_what_is_said_has_a_version() -> None:
    """Whoever changes what is said raises `PROTOCOL_VERSION`, once for each release, and writes its digest here."""
    said = (EditOrder, WarmOrder, Pixels, Output, Hello, Welcome, ModelCard, MeasuredSetting, Speed, StepCosts)
    told = (TokenSeconds, LoadSeconds, ReplicaStats, StepReport, WarmReport, EditOutcome, PhaseTimings, HeldTemplate)
    form = [(kind.__name__, [(f.name, f.type) for f in fields(kind)]) for kind in (*said, *told)]
    assert (PROTOCOL_VERSION, content_digest(repr(form).encode())) == (2, "184a86f89f649a26f0de72ee7d97ae5b")
