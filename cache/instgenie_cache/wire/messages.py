"""What clients and the cache service say to each other.

A frame is a prefix, a header and a payload (see `frames`). The header of a request is a msgpack map with `op` (name of
the operation), `id` (a number that its reply repeats; replies come in any order) and the fields of the operation's
class below. A reply's header has `id` and the fields of the reply's class, or `id` and `error`: a kind of
`ERROR_KINDS` and a message. Requests of one connection are begun in the order in which they come.

The first request is `Hello`, before it nothing else is taken.

While a put waits for room, or a large one is verified, nothing more is read from its connection. So a client that reads
as well as writes uses two: what would make room, such as `Release`, must not come after a put that waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self, TypeAlias, get_args, get_origin, get_type_hints

from instgenie_cache.errors import (
    BeingWrittenError,
    CacheError,
    ChecksumError,
    IncompleteTemplateError,
    ProtocolError,
    RecordFormatError,
    StoreFullError,
)

PROTOCOL_VERSION = 2

ArenaUse: TypeAlias = Literal["none", "read", "write"]

ERROR_KINDS: dict[str, type[CacheError]] = {
    "cache": CacheError,
    "record_format": RecordFormatError,
    "checksum": ChecksumError,
    "full": StoreFullError,
    "incomplete": IncompleteTemplateError,
    "being_written": BeingWrittenError,
    "protocol": ProtocolError,
}


_HINTS: dict[type, dict[str, Any]] = {}  # of the fields, by class of message: finding them takes 40 us


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Fields of a frame's header. Unknown fields and wrong types are refused."""

    def fields(self) -> dict[str, Any]:
        """For the header's map."""
        return {name: getattr(self, name) for name in _hints(type(self))}

    @classmethod
    def read(cls, header: Mapping[str, Any]) -> Self:
        """From the header's map, without `op` and `id`.

        Raises:
            ProtocolError: a field is missing, unknown or of a wrong type.
        """
        hints = _hints(cls)
        if unknown := header.keys() - hints.keys():
            raise ProtocolError(f"{cls.__name__} has no field {sorted(map(str, unknown))[0][:40]!r}")
        for name, value in header.items():
            if not _is_a(value, hints[name]):
                raise ProtocolError(f"{cls.__name__}.{name} is not to be {repr(value)[:80]}")
        try:
            return cls(**header)
        except TypeError as error:
            raise ProtocolError(f"{cls.__name__} lacks a field: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Empty(Message):
    """A reply that says no more than that it is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HelloReply(Message):
    """What the service grants.

    Attributes:
        service: name of this run of the service; another one has other leases and another arena.
        arena_bytes: of the arena, whose file descriptor comes along with this reply; None where it does not.
        credit_bytes: payload of puts that may be on its way, unanswered, at a time. One put may be more, alone.
        payload_bytes: largest payload of a frame.
    """

    service: str
    arena_bytes: int | None
    credit_bytes: int
    payload_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Message):
    """Begin a connection.

    Attributes:
        version: of the protocol, `PROTOCOL_VERSION`.
        client: a name for logs, at most 64 characters.
        namespace: the client sees templates of this namespace alone; None sees all.
        arena: over a Unix socket, map the service's memory: read it, or write it, which page-locking it takes. Not with
            a namespace. Other clients are sent the bytes.
    """

    op: ClassVar[str] = "hello"
    reply: ClassVar[type[Message]] = HelloReply
    version: int
    client: str
    namespace: str | None = None
    arena: ArenaUse = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateReply(Message):
    """The number of a writer, within this connection."""

    writer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Create(Message):
    """Begin to write a template: see `RecordStore.create`. Where nothing is put for long, the writer is aborted."""

    op: ClassVar[str] = "create"
    reply: ClassVar[type[Message]] = CreateReply
    template: str
    steps: int
    blocks: int
    record_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Put(Message):
    """A record of a writer's template. The payload is the record's bytes, header included."""

    op: ClassVar[str] = "put"
    reply: ClassVar[type[Message]] = Empty
    writer: int
    step: int
    block: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit(Message):
    """Make a writer's template visible.

    Attributes:
        steps, note: see `TemplateWriter.commit`.
        durable: answer once it is on disk.
    """

    op: ClassVar[str] = "commit"
    reply: ClassVar[type[Message]] = Empty
    writer: int
    cost_ms: float = 0.0
    steps: int | None = None
    note: bytes = b""
    durable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort(Message):
    """Drop what a writer put. An unknown writer is no error."""

    op: ClassVar[str] = "abort"
    reply: ClassVar[type[Message]] = Empty
    writer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseReply(Message):
    """The number of a lease within this connection, None where the template is not there, and what was leased.

    Attributes:
        note: what the template's writer left for its readers.
    """

    lease: int | None
    tier: str = ""
    steps: int = 0
    blocks: int = 0
    record_bytes: int = 0
    note: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease(Message):
    """Open a template for reading: see `RecordStore.lease`."""

    op: ClassVar[str] = "lease"
    reply: ClassVar[type[Message]] = LeaseReply
    template: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchReply(Message):
    """Where a step is.

    Attributes:
        lost: the step, or a record of it, is not there.
        pieces: of all the step, for clients that map the arena: offset and length of each stretch, in order; they stay
            until the step or the lease is released. Else None, and the payload is the step's memory, laid out as
            `TemplateSize` says, or that of the blocks that were asked for.
    """

    lost: bool
    pieces: list[list[int]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch(Message):
    """Have a step of a lease in memory, loaded if need be.

    Attributes:
        blocks: the first one that is wanted and the one after the last: where the step is not in memory, they are read
            and sent, and it is not loaded. None is the whole step.
    """

    op: ClassVar[str] = "fetch"
    reply: ClassVar[type[Message]] = FetchReply
    lease: int
    step: int
    blocks: list[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TiersReply(Message):
    """A `TierName` for each step."""

    tiers: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiers(Message):
    """Where the steps of a lease's template are: see `TemplateLease.tiers`."""

    op: ClassVar[str] = "tiers"
    reply: ClassVar[type[Message]] = TiersReply
    lease: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(Message):
    """Give a lease back, or one step of it that was fetched. An unknown lease is no error."""

    op: ClassVar[str] = "release"
    reply: ClassVar[type[Message]] = Empty
    lease: int
    step: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefetch(Message):
    """Load steps of a template into memory, in the background. None is all of them."""

    op: ClassVar[str] = "prefetch"
    reply: ClassVar[type[Message]] = Empty
    template: str
    steps: list[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PinReply(Message):
    """Whether the template is there."""

    held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin(Message):
    """Keep a template from being evicted for as long as this connection lives, or no longer."""

    op: ClassVar[str] = "pin"
    reply: ClassVar[type[Message]] = PinReply
    template: str
    pinned: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StatReply(Message):
    """`StoreStats` of what the client sees; with a template in the request, of that one: templates is 1 or 0."""

    templates: int
    used_bytes: int
    budget_bytes: int
    hits: int
    misses: int
    evicted_templates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat(Message):
    """Counts. Asking is no use of a template."""

    op: ClassVar[str] = "stat"
    reply: ClassVar[type[Message]] = StatReply
    template: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListReply(Message):
    """Names of templates in alphabetical order, with payload bytes; `more` says that there are more after the last."""

    templates: list[str]
    num_bytes: list[int]
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class List(Message):
    """Templates whose names come after a given one, `limit` at most, 1000 at most."""

    op: ClassVar[str] = "list"
    reply: ClassVar[type[Message]] = ListReply
    after: str = ""
    limit: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete(Message):
    """Drop a template: see `RecordStore.delete`."""

    op: ClassVar[str] = "delete"
    reply: ClassVar[type[Message]] = Empty
    template: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepReply(Message):
    """How many records of the client's templates were verified, and how many templates were dropped as broken."""

    records: int
    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep(Message):
    """Verify every record on disk, and drop the templates that have broken ones."""

    op: ClassVar[str] = "sweep"
    reply: ClassVar[type[Message]] = SweepReply


@dataclass(frozen=True, slots=True, kw_only=True)
class Flush(Message):
    """Answer once everything that this connection committed is on disk; an error where some of it could not be."""

    op: ClassVar[str] = "flush"
    reply: ClassVar[type[Message]] = Empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics(Message):
    """The service's metrics; the payload is Prometheus' text format. Not for clients that are bound to a namespace."""

    op: ClassVar[str] = "metrics"
    reply: ClassVar[type[Message]] = Empty


Request = (
    Hello
    | Create
    | Put
    | Commit
    | Abort
    | Lease
    | Fetch
    | Tiers
    | Release
    | Prefetch
    | Pin
    | Stat
    | List
    | Delete
    | Sweep
    | Flush
    | Metrics
)
REQUESTS: dict[str, type[Request]] = {kind.op: kind for kind in get_args(Request)}


def _hints(kind: type[Message]) -> dict[str, Any]:
    """The types of a message's fields by name."""
    hints = _HINTS.get(kind)
    if hints is None:
        found = get_type_hints(kind)
        hints = _HINTS[kind] = {field.name: found[field.name] for field in fields(kind)}
    return hints


def _is_a(value: object, hint: Any) -> bool:
    """Whether a value from msgpack is of a field's type."""
    if hint is int:
        return type(value) is int and value >= 0
    if hint is str:
        return type(value) is str
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return type(value) is str and value in arguments
    if origin is list:
        return type(value) is list and all(_is_a(item, arguments[0]) for item in value)
    if arguments:  # a union
        return any(_is_a(value, argument) for argument in arguments)
    if hint is float:
        return type(value) in (int, float) and 0 <= value < float("inf")  # type: ignore[operator]
    return type(value) is hint
