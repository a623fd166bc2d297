"""One client's connection: its requests, and what it holds until it goes.

Requests are begun in the order in which they come. Those that need not wait are answered at once, the others by a task
each. Nothing that a client says ends more than its own connection.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from instgenie_cache.errors import CacheError, ProtocolError, ServiceError
from instgenie_cache.service.announced_bytes import AnnouncedBytes
from instgenie_cache.service.private_memory import PrivateMemory
from instgenie_cache.service.reading_gate import ReadingGate
from instgenie_cache.service.reply_sender import ReplySender, SendingConnection
from instgenie_cache.service.served_store import ServedStore
from instgenie_cache.service.session_leases import HeldLease, SessionLeases, StepUse
from instgenie_cache.service.session_limits import SessionLimits
from instgenie_cache.service.session_lookups import SessionLookups
from instgenie_cache.service.session_writers import IncomingPut, SessionWriters
from instgenie_cache.service.shared_pins import SharedPins
from instgenie_cache.service.waiting_requests import WaitingRequests
from instgenie_cache.service.workers import Workers, WorkerShare
from instgenie_cache.wire.connection import FrameHandler
from instgenie_cache.wire.error_frames import error_fields
from instgenie_cache.wire.frames import Frame
from instgenie_cache.wire.messages import (
    REQUESTS,
    Abort,
    Commit,
    Create,
    CreateReply,
    Delete,
    Empty,
    Fetch,
    Flush,
    Hello,
    Lease,
    List,
    Message,
    Metrics,
    Pin,
    Prefetch,
    Put,
    Release,
    Request,
    Stat,
    Sweep,
    SweepReply,
    Tiers,
)

log = logging.getLogger(__name__)


class SessionMetrics(Protocol):
    """See `ServiceMetrics`."""

    def generate(self) -> bytes:
        """Everything, in Prometheus' text format."""
        ...

    def answered(self, op: str, outcome: str, seconds: float) -> None:
        """A request was answered."""
        ...

    def unanswered(self, num_bytes: int) -> None:
        """So many bytes of puts more, or fewer, are on their way."""
        ...


class SessionConnection(SendingConnection, Protocol):
    """See `FrameConnection`."""

    def close(self) -> None:
        """Send what is to be sent, then end."""
        ...


@dataclass(frozen=True, slots=True)
class SessionContext:
    """What all sessions of a service share."""

    store: ServedStore
    workers: Workers
    metrics: SessionMetrics
    pins: SharedPins
    private: PrivateMemory
    limits: SessionLimits
    announced: AnnouncedBytes
    sweeping: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_stopping: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class ClientRights:
    """Who the client is.

    Attributes:
        namespace: whose templates it sees; None sees all.
        maps_arena: it reads steps where they are.
    """

    name: str
    namespace: str | None = None
    maps_arena: bool = False


@dataclass(slots=True, eq=False)
class _Pending:
    """A request that is to be answered once."""

    id: int
    op: str
    incoming: IncomingPut | None
    started: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, slots=True)
class _Sending:
    """A reply with a payload, and what to do once it is sent."""

    reply: Message
    views: Sequence[memoryview]
    done: Callable[[], None] = lambda: None


class Session:
    """A `FrameHandler` of one connection after its handshake."""

    def __init__(
        self,
        context: SessionContext,
        client: ClientRights,
        connect: Callable[[FrameHandler], SessionConnection],
        on_closed: Callable[[Session], None] = lambda _: None,
    ) -> None:
        """Args:
        connect: makes the connection whose handler this is.
        on_closed: called when the connection has ended and all is given back.
        """
        self._context, self._client, self._on_closed = context, client, on_closed
        self._connection = connect(self)
        limits = context.limits
        self._gate = ReadingGate(self._connection)
        self._sender = ReplySender(
            self._connection,
            self._gate,
            unread_replies=limits.unread_replies,
            unread_seconds=limits.unread_seconds,
        )
        self._writers = SessionWriters(
            context.store, context.workers, self._gate, limits, context.announced, client.namespace
        )
        loads = WorkerShare(context.workers.run_loading, limits.loads)
        self._looks = WorkerShare(context.workers.run_looking, limits.loads)
        self._leases = SessionLeases(loads, context.private, limits, maps_arena=client.maps_arena)
        self._waiting = WaitingRequests(limits.requests)
        self._lookups = SessionLookups(
            context.store, self._looks, context.pins, limits, client.namespace, self._waiting
        )
        self._incoming: IncomingPut | None = None
        self._is_closed = False

    async def finish(self) -> None:
        """Take no more requests, answer those in progress, and close the connection."""
        self._gate.hold("closing")
        await self._waiting.wait()
        self._connection.close()

    def abort(self) -> None:
        """End the connection at once."""
        self._connection.abort()

    # What the connection calls.

    def sink(self, header: dict[str, Any], payload_bytes: int) -> Sequence[memoryview] | None:
        """See `FrameHandler`. What is no put, or is refused, is thrown away, so that the frames after it are read."""
        if self._incoming is None:
            try:
                request = _read(header)
            except CacheError:  # told when the frame is complete
                return None
            if not isinstance(request, Put):
                return None
            self._incoming = self._writers.begin_put(request, payload_bytes)
            self._context.metrics.unanswered(payload_bytes)
        return self._writers.sink(self._incoming)

    def frame(self, frame: Frame) -> None:
        """See `FrameHandler`."""
        request_id, op = frame.header.get("id"), frame.header.get("op")
        incoming, self._incoming = self._incoming, None
        if type(request_id) is not int or request_id <= 0:
            error = ProtocolError(f"a request's id is a number above 0, not {repr(request_id)[:40]}")
            if incoming is not None:
                self._writers.drop_put(incoming, error)
                self._settle(incoming)
            raise error
        pending = _Pending(request_id, op if isinstance(op, str) else "", incoming)
        try:
            work = self._begin(frame, incoming)
        except Exception as error:  # noqa: BLE001 - `_fail` logs what is no `CacheError`
            if incoming is not None and incoming.error is None:
                self._writers.drop_put(incoming, error)
            self._fail(pending, error)
            return
        if isinstance(work, Message):
            self._answer(pending, work)
            return
        self._waiting.add(self._answer_later(pending, work))

    def closed(self, error: Exception | None) -> None:
        """See `FrameHandler`. Everything that the client held is free at once. A second time it does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if error is not None:
            log.info("client %s: its connection ended: %s", self._client.name, error)
        try:
            self._sender.close()
            self._writers.close()
            self._leases.close()
            self._lookups.close()
            if self._incoming is not None:
                self._settle(self._incoming)
                self._incoming = None
        finally:
            self._on_closed(self)

    # Answers.

    def _answer(self, pending: _Pending, reply: Message, views: Sequence[memoryview] = ()) -> None:
        try:
            self._sender.send({"id": pending.id, **reply.fields()}, views)
        except CacheError as error:
            self._fail(pending, error)
        else:
            self._count(pending, "ok")

    async def _answer_later(self, pending: _Pending, work: Awaitable[Message | _Sending]) -> None:
        try:
            answer = await work
        except Exception as error:  # noqa: BLE001 - as in `frame`
            self._fail(pending, error)
            return
        if isinstance(answer, Message):
            self._answer(pending, answer)
            return
        try:
            self._answer(pending, answer.reply, answer.views)
            await self._sender.sent()
        finally:
            answer.done()

    def _fail(self, pending: _Pending, error: Exception) -> None:
        if not isinstance(error, CacheError):
            log.error("request %s of client %s failed", pending.op[:40], self._client.name, exc_info=error)
            error = CacheError(f"the service failed: {type(error).__name__}")
        fields = error_fields(pending.id, error)
        self._sender.send(fields)
        self._count(pending, fields["error"])

    def _count(self, pending: _Pending, outcome: str) -> None:
        if pending.incoming is not None:
            self._settle(pending.incoming)
        self._context.metrics.answered(pending.op, outcome, time.perf_counter() - pending.started)

    def _settle(self, incoming: IncomingPut) -> None:
        self._context.metrics.unanswered(-incoming.payload_bytes)

    # Requests.

    def _begin(self, frame: Frame, incoming: IncomingPut | None) -> Message | Awaitable[Message | _Sending]:
        """The reply, or how to get it.

        Raises:
            CacheError: the request is refused.
        """
        request = _read(frame.header)
        if frame.payload_bytes and not isinstance(request, Put):
            raise ProtocolError(f"{request.op} has no payload, {frame.payload_bytes} bytes came")
        store, lookups = self._context.store, self._lookups
        match request:
            case Hello():
                raise ProtocolError("hello was said before")
            case Create():
                return CreateReply(writer=self._writers.create(request))
            case Put():
                return self._put(incoming)
            case Commit():
                return self._commit(request)
            case Abort():
                self._writers.abort(request.writer)
            case Lease():
                return self._lease(request.template)
            case Fetch():
                return self._fetch(request)
            case Tiers():
                return self._leases.tiers(request.lease)
            case Release():
                self._leases.release(request.lease, request.step)
            case Prefetch():
                if lookups.sees(request.template):
                    store.prefetch(request.template, request.steps)
            case Pin():
                return lookups.pin(request)
            case Stat():
                return lookups.stat(request)
            case List():
                return lookups.list(request)
            case Delete():
                if lookups.sees(request.template):
                    store.delete(request.template)
            case Sweep():
                self._waiting.check_room()
                return self._sweep()
            case Flush():
                self._waiting.check_room()
                return _then_empty(self._writers.flush())
            case Metrics():
                if self._client.namespace is not None:
                    raise CacheError("a client that is bound to a namespace has no business with the metrics of all")
                self._waiting.check_room()
                return self._metrics()
        return Empty()

    def _put(self, incoming: IncomingPut | None) -> Message | Awaitable[Message]:
        if incoming is None:
            raise ProtocolError("a put's payload is a record, none came")
        verifying = self._writers.end_put(incoming)
        return Empty() if verifying is None else _then_empty(verifying)

    def _commit(self, request: Commit) -> Message | Awaitable[Message]:
        if request.durable:
            self._waiting.check_room()
        writer = self._writers.commit(request)
        if request.durable:
            return _then_empty(self._writers.wait_durable(writer))
        self._writers.remember(writer)
        return Empty()

    def _lease(self, template: str) -> Message | Awaitable[Message]:
        if not self._lookups.sees(template):
            return self._leases.add(None)
        self._leases.check_room()
        store = self._context.store
        if not store.lookup_blocks(template):
            return self._leases.add(store.lease(template, look_up=False))
        self._waiting.check_room()
        return self._lease_later(template)

    async def _lease_later(self, template: str) -> Message:
        return self._leases.add(await self._looks.run(lambda: self._context.store.lease(template)))

    def _fetch(self, request: Fetch) -> Message | Awaitable[Message | _Sending]:
        held, blocks = self._leases.held(request.lease), _range(request.blocks)
        reply = self._leases.fetch_now(held, request.step, blocks)
        if reply is not None:
            return reply
        self._waiting.check_room()
        return self._fetch_later(held, self._leases.use(held, request.step, blocks))

    async def _fetch_later(self, held: HeldLease, use: StepUse) -> Message | _Sending:
        views: Sequence[memoryview] = ()
        try:
            reply, views = await self._leases.fetch(held, use)
        finally:
            if not views:
                self._leases.done(held, use)
        return _Sending(reply, views, lambda: self._leases.done(held, use)) if views else reply

    async def _sweep(self) -> Message:
        context = self._context
        async with context.sweeping:  # it takes a thread and the disk for minutes
            records, dropped = await context.workers.run_slow(
                lambda: context.store.sweep(self._client.namespace, should_stop=self._ends)
            )
        if self._ends():
            raise ServiceError("the service ends: not everything was verified")
        return SweepReply(records=records, dropped=dropped)

    def _ends(self) -> bool:
        """Whether nobody wants the end of something long. For any thread."""
        return self._is_closed or self._context.is_stopping.is_set()

    async def _metrics(self) -> _Sending:
        return _Sending(Empty(), [memoryview(await self._context.workers.run(self._context.metrics.generate))])


def _read(header: Mapping[str, Any]) -> Request:
    """The request of a header.

    Raises:
        ProtocolError: an unknown operation, or fields that are not its own.
    """
    op = header.get("op")
    kind = REQUESTS.get(op) if isinstance(op, str) else None
    if kind is None:
        raise ProtocolError(f"unknown operation {repr(op)[:40]}")
    return kind.read({name: value for name, value in header.items() if name not in ("op", "id")})


def _range(ends: Sequence[int] | None) -> range | None:
    """The blocks that a request asks for.

    Raises:
        ProtocolError: they are not told by two numbers.
    """
    if ends is None:
        return None
    if len(ends) != 2:
        raise ProtocolError(f"blocks are told by two numbers, not {len(ends)}")
    return range(*ends)


async def _then_empty(work: Awaitable[None]) -> Message:
    await work
    return Empty()
