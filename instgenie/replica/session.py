"""One front end's connection to a replica, after its handshake."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from instgenie.errors import InstGenIEError, ReplicaError, TooManyPinsError
from instgenie.orders import Replica
from instgenie.replica.fields import to_fields
from instgenie.replica.kept_ends import KeptEnd, KeptEnds
from instgenie.replica.messages import (
    MAX_PAYLOAD_BYTES,
    Body,
    Hello,
    Notice,
    decode_keys,
    decode_order,
    encode_error,
    encode_held,
    order_digest,
)
from instgenie.replica.outbox import Outbox
from instgenie.replica.pin_holders import PinHolders
from instgenie.replica.running_orders import RunningOrders
from instgenie.replica.service_limits import ServiceLimits
from instgenie.replica.speed import speed_of
from instgenie_cache.errors import ProtocolError
from instgenie_cache.wire.connection import FrameConnection
from instgenie_cache.wire.frames import Frame

log = logging.getLogger(__name__)

_ORDERS = ("edit", "warm")
_ABOUT_KEYS = ("pin", "unpin", "forget", "held")
_KEYS_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class SessionContext:
    """What all sessions of a service share."""

    replica: Replica
    orders: RunningOrders
    kept: KeptEnds
    pins: PinHolders
    limits: ServiceLimits
    drain: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True, eq=False)
class _Listener:
    """A request of this connection that an order's end is the answer to."""

    session: Session
    request_id: int
    order: str

    def report(self, body: Body) -> None:
        if body.fields["event"] == "step":  # the next one tells as much
            self.session.outbox.report(self.request_id, body)
        else:  # a window's key is told once
            self.session.outbox.tell(self.request_id, body)

    def end(self, end: KeptEnd) -> None:
        self.session.ended(self, end)


class Session:
    """A `FrameHandler`. Nothing that a front end says ends more than its own connection."""

    def __init__(self, context: SessionContext, hello: Hello, on_closed: Callable[[Session], None]) -> None:
        self.hello, self._context, self._on_closed = hello, context, on_closed
        limits = context.limits
        self.connection = FrameConnection(self, MAX_PAYLOAD_BYTES, stall_seconds=limits.stall_seconds)
        self.outbox = Outbox(self.connection, limits.unread_seconds)
        self._listeners: dict[int, _Listener] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._incoming_bytes = 0  # of the order that is being received
        self._refusal: ReplicaError | None = None  # of the payload that is being thrown away

    def notice(self, notice: Notice) -> None:
        """Tell the front end something that it did not ask for."""
        self.outbox.notice(Body({"notice": notice}))

    async def finish(self) -> None:
        """Send the ends that are on their way, and end the connection."""
        await self.outbox.sent()
        self.notice("closing")
        self.connection.close()
        await self.connection.wait_closed()

    def abort(self) -> None:
        """End the connection at once, and give up questions that are not answered yet."""
        self.connection.abort()
        for task in self._answering:
            task.cancel()

    def ended(self, listener: _Listener, end: KeptEnd) -> None:
        """The order that this listener waits for has ended."""
        del self._listeners[listener.request_id]
        self.outbox.end(listener.request_id, end)

    # What the connection calls.

    def sink(self, header: dict[str, Any], payload_bytes: int) -> Sequence[memoryview] | None:
        """See `FrameHandler`. What is refused is thrown away, so that the frames after it are read."""
        try:
            self._admit(header.get("op"), payload_bytes)
        except ReplicaError as error:
            self._refusal = error
            return None
        return [memoryview(bytearray(payload_bytes))]

    def frame(self, frame: Frame) -> None:
        """See `FrameHandler`."""
        self._release()
        refusal, self._refusal = self._refusal, None
        request_id = frame.header.get("id")
        if type(request_id) is not int or request_id <= 0:
            raise ProtocolError(f"a request's id is a number above 0, not {repr(request_id)[:40]}")
        payload = frame.views[0] if frame.views else memoryview(b"")
        try:
            if refusal is not None:
                raise refusal
            self._begin(request_id, frame.header, payload)
        except InstGenIEError as error:
            self.outbox.reply(request_id, encode_error(error))
        except ProtocolError as error:
            self.outbox.reply(request_id, encode_error(ReplicaError(f"a request that cannot be read: {error}")))

    def closed(self, error: Exception | None) -> None:
        """See `FrameHandler`. Orders go on for a while without it. A second time it does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if error is not None:
            log.info("front end %s: its connection ended: %s", self.hello.client, error)
        self._release()
        self.outbox.close()
        for listener in self._listeners.values():
            self._context.orders.leave(listener)
        self._listeners.clear()
        self._on_closed(self)

    def _admit(self, op: object, payload_bytes: int) -> None:
        """Whether a payload is taken in."""
        if op in _ORDERS:
            self._check_orders()
            self._context.orders.reserve(payload_bytes)
            self._incoming_bytes = payload_bytes
        elif op not in _ABOUT_KEYS:
            raise ReplicaError(f"{repr(op)[:40]} has no payload, {payload_bytes} bytes came")
        elif payload_bytes > _KEYS_BYTES:
            raise ReplicaError(f"keys of {payload_bytes} bytes, {_KEYS_BYTES} are allowed")

    def _release(self) -> None:
        self._context.orders.release(self._incoming_bytes)
        self._incoming_bytes = 0

    # Requests.

    def _begin(self, request_id: int, header: Mapping[str, Any], payload: memoryview) -> None:
        context, op = self._context, header.get("op")
        if request_id in self._listeners:
            raise ProtocolError(f"request {request_id} was begun before")
        match op:
            case "edit" | "warm":
                self._submit(request_id, header, payload)
            case "cancel":
                order = _order_id(header)
                mine = {listener for listener in self._listeners.values() if listener.order == order}
                for listener in mine:
                    del self._listeners[listener.request_id]
                context.orders.cancel(order, set(mine))
            case "acknowledge":
                context.kept.acknowledge(_order_id(header))
            case "ping":
                self.outbox.reply(request_id, Body({}))
            case "leave":
                self._answer(request_id, self._unpin(context.pins.leave(self.hello.front_end)))
            case "stats":
                self._answer(request_id, self._stats())
            case "drain":
                self._answer(request_id, self._drain())
            case "pin" | "unpin" | "forget" | "held":
                self._answer(request_id, self._about_keys(op, decode_keys(payload)))
            case _:
                raise ProtocolError(f"unknown operation {repr(op)[:40]}")

    def _submit(self, request_id: int, header: Mapping[str, Any], payload: memoryview) -> None:
        self._check_orders()
        order = decode_order(header, payload)
        listener = self._listeners[request_id] = _Listener(self, request_id, order.id)
        try:
            self._context.orders.submit(order, order_digest(header, payload), listener)
        except BaseException:
            self._listeners.pop(request_id, None)
            raise

    def _check_orders(self) -> None:
        limit = self._context.limits.orders
        if len(self._listeners) >= limit:
            raise ReplicaError(f"{limit} orders of this connection are worked on, more are not allowed")

    def _answer(self, request_id: int, work: Awaitable[Body]) -> None:
        """Answer later. What such requests do goes on where the connection ends."""
        task = asyncio.ensure_future(self._answer_later(request_id, work))
        self._answering.add(task)
        task.add_done_callback(self._answered)
        if len(self._answering) >= self._context.limits.requests:
            self.connection.pause()

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        if not self.outbox.is_full:  # else it goes on once the answers are read
            self.connection.resume()

    async def _answer_later(self, request_id: int, work: Awaitable[Body]) -> None:
        try:
            body = await work
        except InstGenIEError as error:
            body = encode_error(error)
        except Exception as error:
            log.exception("request %d of front end %s failed", request_id, self.hello.client)
            body = encode_error(ReplicaError(f"{type(error).__name__}: {error}"))
        self.outbox.reply(request_id, body)

    async def _stats(self) -> Body:
        stats = await self._context.replica.stats()
        return Body({"stats": to_fields(stats), **to_fields(speed_of(self._context.replica))})

    async def _drain(self) -> Body:
        await self._context.drain()
        return Body({})

    async def _unpin(self, keys: set[str]) -> Body:
        if keys:
            await self._context.replica.unpin(keys)
        return Body({})

    async def _about_keys(self, op: str, keys: list[str]) -> Body:
        replica, pins, front_end = self._context.replica, self._context.pins, self.hello.front_end
        if op == "pin":
            if len(pins) + pins.more(front_end, keys) > self._context.limits.pins:
                raise TooManyPinsError(f"{len(pins)} templates are pinned, {self._context.limits.pins} may be")
            pins.pin(front_end, keys)
            return Body({"count": await replica.pin(keys)})
        if op == "unpin":
            return await self._unpin(pins.unpin(front_end, keys))
        if op == "forget":
            pins.forget(keys)
            await replica.forget(keys)
            return Body({})
        return Body({}, encode_held(await replica.held(keys), keys))


def _order_id(header: Mapping[str, Any]) -> str:
    order = header.get("order")
    if not isinstance(order, str):
        raise ProtocolError(f"an order's id is a text, not {repr(order)[:40]}")
    return order
