"""What front ends and a replica say to each other: orders, reports, ends and errors as frames, and back.

A frame is that of `instgenie_cache.wire.frames`: a small header, and a payload for all that may be long: pictures,
masks, prompts, results, lists of keys. README.md lists the messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import msgpack

from instgenie.balancer.step_costs import StepCosts
from instgenie.errors import (
    DeadlineError,
    InstGenIEError,
    InvalidInputError,
    MaskError,
    ParameterError,
    PictureError,
    ReplicaError,
    TemplateNotCachedError,
    TooManyPinsError,
    TooManyPixelsError,
)
from instgenie.orders import (
    EditOrder,
    EditOutcome,
    HeldTemplate,
    ModelCard,
    PhaseTimings,
    Pixels,
    StepReport,
    WarmOrder,
    WarmReport,
)
from instgenie.replica.fields import read_fields, to_fields
from instgenie.replica.speed import Speed
from instgenie_cache.errors import ProtocolError
from instgenie_cache.keys import content_digest

HELLO = "replica"  # the first operation of a connection
PROTOCOL_VERSION = (
    2  # raised once a release with any change of what is said: fields that one side does not know are refused
)
MAX_PAYLOAD_BYTES = 512 << 20  # the largest picture that is edited has 64 million pixels of 4 bytes, and a mask
MAX_KEYS = 100_000  # in one question
MAX_BOXES = 1024  # of a warm-up; more do not fit into a header
MAX_NAME_CHARACTERS = 200  # of an order's id
_MAX_MESSAGE_CHARACTERS = 4000
_SPEED = tuple(field.name for field in fields(Speed))

Order = EditOrder | WarmOrder
Report = StepReport | WarmReport
Notice = Literal["draining", "closing"]
Payload = Sequence[bytes | memoryview]

_INPUT_ERRORS: dict[str, type[InvalidInputError]] = {
    "too_many_pixels": TooManyPixelsError,
    "picture": PictureError,
    "mask": MaskError,
    "parameter": ParameterError,
    "input": InvalidInputError,
}
_OTHER_ERRORS: dict[str, type[InstGenIEError]] = {
    "not_cached": TemplateNotCachedError,
    "deadline": DeadlineError,
    "too_many_pins": TooManyPinsError,
    "replica": ReplicaError,
}


@dataclass(frozen=True, slots=True)
class Body:
    """What a frame says but for its `id`: header fields and the payload's pieces."""

    fields: dict[str, Any]
    payload: Payload = ()

    @property
    def payload_bytes(self) -> int:
        """Of all pieces."""
        return sum(len(piece) for piece in self.payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Begin a connection.

    Attributes:
        client: a name for logs.
        front_end: who it is over all its connections: it holds what it pinned until it is gone for long.
    """

    version: int
    client: str
    front_end: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The reply to `Hello`.

    Attributes:
        instance: this run of the process; another one knows nothing of the orders of this one.
        is_draining: it takes no new orders.
        seconds_per_token, costs: as in `Speed`.

    Raises:
        ValueError: a model whose canvas has no token.
    """

    instance: str
    model: ModelCard
    is_draining: bool
    seconds_per_token: float
    costs: StepCosts

    def __post_init__(self) -> None:
        if self.model.canvas_pixels < self.model.patch:
            raise ValueError(f"a canvas of {self.model.canvas_pixels} pixels is less than a patch, {self.model.patch}")

    @property
    def speed(self) -> Speed:
        """How fast it is."""
        return Speed(self.seconds_per_token, self.costs)


# Orders. Texts may be longer than a header, and need not be valid Unicode: the replica says so, as any other does.


def encode_order(order: Order) -> Body:
    """An order as a request, without its number.

    Raises:
        InvalidInputError: more boxes than can be sent.
    """
    long: tuple[bytes, ...] = ()
    op = "warm"
    if isinstance(order, EditOrder):
        op, long = "edit", (order.mask, order.prompt.encode("utf-8", "surrogatepass"))
    elif order.boxes is not None and len(order.boxes) > MAX_BOXES:
        raise InvalidInputError("boxes", f"{len(order.boxes)} are more than {MAX_BOXES}")
    picture = order.picture
    parts = (picture.data, picture.icc_profile, order.template_prompt.encode("utf-8", "surrogatepass"), *long)
    in_payload = frozenset({"data", "icc_profile", "mask", "prompt", "template_prompt"})
    lengths = [None if part is None else len(part) for part in parts]
    return Body({"op": op, "order": to_fields(order, in_payload), "parts": lengths}, [part for part in parts if part])


def decode_order(header: Mapping[str, Any], payload: memoryview) -> Order:
    """The order of a request.

    Raises:
        ProtocolError: it is malformed.
    """
    kind: type[Order] = EditOrder if header.get("op") == "edit" else WarmOrder
    data, profile, template_prompt, *long = _cut(header.get("parts"), payload, 5 if kind is EditOrder else 3)
    fields = header.get("order")
    if set(header) - {"id"} != {"op", "order", "parts"} or not isinstance(fields, dict):
        raise ProtocolError("an order has the fields order and parts")
    picture = read_fields(Pixels, fields.get("picture"), data=_needed(data), icc_profile=profile)
    known: dict[str, Any] = {"picture": picture, "template_prompt": _text(_needed(template_prompt))}
    if kind is EditOrder:
        known |= {"mask": _needed(long[0]), "prompt": _text(_needed(long[1]))}
    order = read_fields(kind, {name: value for name, value in fields.items() if name != "picture"}, **known)
    if not 0 < len(order.id) <= MAX_NAME_CHARACTERS:
        raise ProtocolError(f"an order's id has 1 to {MAX_NAME_CHARACTERS} characters, not {len(order.id)}")
    return order


def order_digest(header: Mapping[str, Any], payload: memoryview) -> str:
    """Whether two requests order the same. Their numbers do not matter, nor how much time is left for them."""
    order = sorted((name, value) for name, value in header["order"].items() if name != "deadline_seconds")
    packed = msgpack.packb([header["op"], order, header["parts"]])
    return content_digest(packed, payload)


def _cut(lengths: object, payload: memoryview, count: int) -> list[bytes | None]:
    """The payload's parts; those that are None were None."""
    if not isinstance(lengths, list) or len(lengths) != count:
        raise ProtocolError(f"an order of this kind has {count} parts, not {repr(lengths)[:80]}")
    if any(length is not None and (type(length) is not int or length < 0) for length in lengths):
        raise ProtocolError(f"parts have lengths, not {repr(lengths)[:80]}")
    if (total := sum(length or 0 for length in lengths)) != payload.nbytes:
        raise ProtocolError(f"parts of {total} bytes in a payload of {payload.nbytes}")
    parts: list[bytes | None] = []
    begin = 0
    for length in lengths:
        parts.append(None if length is None else bytes(payload[begin : begin + length]))
        begin += length or 0
    return parts


def _needed(part: bytes | None) -> bytes:
    if part is None:
        raise ProtocolError("an order lacks a part")
    return part


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a prompt is no UTF-8: {error}") from error


# Reports, which come while an order is worked on.


def encode_report(report: Report) -> Body:
    """A report as a frame that is not the last one of its order."""
    if isinstance(report, WarmReport):
        return Body({"event": "window", **to_fields(report)})
    preview = report.preview
    return Body({"event": "step", **to_fields(report, frozenset({"preview"}))}, () if preview is None else (preview,))


def decode_report(header: Mapping[str, Any], payload: bytes) -> Report:
    """The report of a frame.

    Raises:
        ProtocolError: it is malformed.
    """
    fields = _without(header, "event")
    if header["event"] == "window":
        return read_fields(WarmReport, fields)
    if header["event"] == "step":
        return read_fields(StepReport, fields, preview=payload or None)
    raise ProtocolError(f"an event of no known kind: {repr(header['event'])[:40]}")


# Ends of orders, and errors, of orders or of other requests.


def encode_outcome(outcome: EditOutcome | None, speed: Speed) -> Body:
    """The end of an edit, or of a warm-up, which has no outcome."""
    if outcome is None:
        return Body({"end": "warm", **to_fields(speed)})
    return Body({"end": "edit", **to_fields(speed), **to_fields(outcome, frozenset({"image"}))}, (outcome.image,))


def decode_outcome(header: Mapping[str, Any], payload: bytes) -> tuple[EditOutcome | None, Speed]:
    """What came of an order, and how fast the replica was by then.

    Raises:
        ProtocolError: it is malformed.
    """
    speed = read_speed(header)
    fields = _without(header, "end", *_SPEED)
    if header.get("end") == "warm" and not fields:
        return None, speed
    if header.get("end") != "edit":
        raise ProtocolError(f"an end of no known kind: {repr(header.get('end'))[:40]}")
    timings = read_fields(PhaseTimings, fields.pop("timings", None))
    return read_fields(EditOutcome, fields, image=payload, timings=timings), speed


def encode_error(error: InstGenIEError) -> Body:
    """An error as a reply. Those that are no error of an order are `ReplicaError`s."""
    message = str(error)
    name = _name_of(error, _INPUT_ERRORS) or _name_of(error, _OTHER_ERRORS) or "replica"
    fields: dict[str, Any] = {"error": name}
    if isinstance(error, InvalidInputError):
        fields["parameter"] = _sendable(error.parameter)
        message = message.removeprefix(f"{error.parameter}: ")
    return Body(fields | {"message": _sendable(message)})


def decode_error(header: Mapping[str, Any]) -> InstGenIEError:
    """The error of a reply. What is no known kind is a `ReplicaError`."""
    name, message, parameter = (header.get(field) for field in ("error", "message", "parameter"))
    if not isinstance(message, str):
        message = "no message"
    if isinstance(name, str) and name in _INPUT_ERRORS and isinstance(parameter, str):
        return _INPUT_ERRORS[name](parameter, message)
    return _OTHER_ERRORS.get(name if isinstance(name, str) else "", ReplicaError)(message)


def _name_of(error: InstGenIEError, kinds: Mapping[str, type[InstGenIEError]]) -> str | None:
    """The most exact kind, which comes first."""
    return next((name for name, kind in kinds.items() if isinstance(error, kind)), None)


def _sendable(text: str) -> str:
    """Messages quote what was wrong, half characters among it."""
    return text[:_MAX_MESSAGE_CHARACTERS].encode("utf-8", "backslashreplace").decode()


# Keys of templates.


def encode_keys(keys: Sequence[str]) -> Payload:
    """Keys as a payload.

    Raises:
        ReplicaError: too many, or no text.
    """
    if len(keys) > MAX_KEYS:
        raise ReplicaError(f"{len(keys)} keys at a time, {MAX_KEYS} are allowed")
    try:
        return (msgpack.packb(list(keys)),)
    except ValueError as error:
        raise ReplicaError(f"keys that cannot be sent: {error}") from error


def decode_keys(payload: memoryview) -> list[str]:
    """The keys of a payload.

    Raises:
        ProtocolError: there are none in it, or too many.
    """
    keys = _unpack(payload)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ProtocolError("keys are texts")
    return keys


def encode_held(held: Mapping[str, HeldTemplate], keys: Sequence[str]) -> Payload:
    """The answer to `held`, in the order of the question's keys."""
    return (msgpack.packb([(held[key].num_bytes, held[key].hits) for key in keys]),)


def decode_held(payload: memoryview, keys: Sequence[str]) -> dict[str, HeldTemplate]:
    """The reverse of `encode_held`.

    Raises:
        ProtocolError: it is no answer to this question.
    """
    pairs = _unpack(payload)
    if not isinstance(pairs, list) or len(pairs) != len(keys):
        raise ProtocolError(f"what is held of {len(keys)} templates was not told")
    if any(not isinstance(pair, list) or len(pair) != len(("num_bytes", "hits")) for pair in pairs):
        raise ProtocolError("of a template, bytes and hits are told")
    names = ("num_bytes", "hits")
    return {
        key: read_fields(HeldTemplate, dict(zip(names, pair, strict=True)))
        for key, pair in zip(keys, pairs, strict=True)
    }


def _unpack(payload: memoryview) -> Any:
    try:
        return msgpack.unpackb(payload, max_array_len=MAX_KEYS, max_map_len=0, max_ext_len=0)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError(f"an unreadable payload: {repr(error)[:200]}") from error


def read_speed(header: Mapping[str, Any]) -> Speed:
    """The speed that a header tells, among other things.

    Raises:
        ProtocolError: it is not told, or no number of seconds.
    """
    return read_fields(Speed, {name: header[name] for name in _SPEED if name in header})


def _without(header: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in header.items() if name not in ("id", *names)}
