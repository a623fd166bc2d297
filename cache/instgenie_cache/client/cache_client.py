"""The asynchronous client of a cache service: one connection for any number of callers."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from instgenie_cache.client.credit_gate import CreditGate
from instgenie_cache.client.grants import Grants
from instgenie_cache.errors import CacheError, ProtocolError, ServiceError
from instgenie_cache.tiers.arena import Arena
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.address import connect as connect_socket
from instgenie_cache.wire.connection import FrameConnection
from instgenie_cache.wire.error_frames import read_error
from instgenie_cache.wire.frames import Frame
from instgenie_cache.wire.handshake import Greeting, SharedSecret, greet
from instgenie_cache.wire.messages import (
    PROTOCOL_VERSION,
    ArenaUse,
    Hello,
    HelloReply,
    Release,
    Request,
)

MAX_REPLY_BYTES = 16 << 20  # of a payload for which the caller provides no memory
MAX_UNANSWERED_PUTS = 128  # a service refuses connections with too many requests in progress
NO_LEASE = 0  # a number that no lease has: to release it does nothing, and is answered at once
_ANY_LENGTH = 1 << 62  # whoever waits for a payload says how long it may be

# From msgpack, of text that is no UTF-8, numbers beyond 64 bits and values of other types; from views with gaps.
_UNSENDABLE = (ValueError, TypeError, OverflowError)

Views = Sequence[memoryview]
Into = Callable[[int], Views]


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply and its payload."""

    message: Any  # of the request's `reply` class
    payload: Views


@dataclass(slots=True, eq=False)
class _Pending:
    """A request that is not answered yet.

    Attributes:
        answered: is told the answer or what went wrong; None once nobody waits for it.
        credit_bytes: to be given back with the answer.
    """

    message: Request
    into: Into | None
    answered: Callable[[Answer | CacheError], None] | None
    credit_bytes: int | None


class CacheClient:
    """A connection to a cache service. All methods are for the loop on which it was made.

    A deadline that passes ends the wait, not the connection: the answer that comes late is thrown away, and what it
    grants is given back.

    Attributes:
        arena: the service's memory, where it is mapped.
        heard_at: when the service said something, `time.monotonic`.
        is_silent: an answer was overdue, and nothing was heard since: see `doubt`.
    """

    def __init__(self, hello: HelloReply, arena: Arena | None) -> None:
        """Use `connect`."""
        self.hello = hello
        self.arena = arena
        self.credits = CreditGate(hello.credit_bytes, MAX_UNANSWERED_PUTS)
        self._connection = FrameConnection(self, _ANY_LENGTH)
        self._pending: dict[int, _Pending] = {}
        self._last_id = 1  # that of hello
        self._is_closing = False
        self._grants = Grants()
        self._error: CacheError | None = None
        self._despair: asyncio.TimerHandle | None = None
        self.heard_at = time.monotonic()
        self.is_silent = False

    @classmethod
    async def connect(
        cls,
        address: Address,
        *,
        client: str,
        namespace: str | None = None,
        arena: ArenaUse = "none",
        secret: SharedSecret | None = None,
        timeout_seconds: float = 5.0,
    ) -> Self:
        """Connect and say hello.

        Args:
            client: name for the service's logs.
            namespace: see no templates but this namespace's.
            arena: map the service's memory, over a Unix socket; ignored over TCP.
            secret: for TCP; ignored over a Unix socket, to which its file mode says who may connect.

        Raises:
            ServiceError: no service there, it refused, or it took too long.
            CacheError: its memory cannot be mapped.
        """
        sock, mapped, made = None, None, None
        try:
            async with asyncio.timeout(timeout_seconds):
                sock = await connect_socket(address)
                hello = Hello(
                    version=PROTOCOL_VERSION,
                    client=client[:64],
                    namespace=namespace,
                    arena=arena if address.is_unix else "none",
                )
                greeting = await greet(sock, hello, None if address.is_unix else secret)
                mapped = _mapped(greeting, writable=arena == "write")
                made = cls(greeting.reply, mapped)
                loop = asyncio.get_running_loop()
                if address.is_unix:
                    await loop.create_unix_connection(lambda: made._connection, sock=sock)
                else:
                    await loop.create_connection(lambda: made._connection, sock=sock)
                return made
        except BaseException as error:
            if made is not None:
                made._connection.abort()
            if mapped is not None:
                mapped.close()
            if sock is not None:
                sock.close()
            if isinstance(error, TimeoutError):
                message = f"the cache service at {address} took longer than {timeout_seconds} s"
                raise ServiceError(message) from error
            if isinstance(error, OSError):
                raise ServiceError(f"no connection to the cache service at {address}: {error}") from error
            if isinstance(error, _UNSENDABLE):
                raise CacheError(f"a hello that cannot be sent: {error}") from error
            raise

    @property
    def is_closed(self) -> bool:
        """Nothing more can be asked: every request fails at once."""
        return self._error is not None or self._connection.is_closed

    async def request(
        self,
        message: Request,
        payload: Sequence[memoryview | bytes] = (),
        *,
        deadline_seconds: float | None = None,
        into: Into | None = None,
    ) -> tuple[Any, Views]:
        """Ask, and wait for the answer. A payload waits for credit first; it must not change afterwards.

        Args:
            into: makes room for the reply's payload, given its length: views of as many bytes in all. It may refuse by
                a `ProtocolError`, which ends the connection. None takes up to 16 MiB.

        Returns:
            The message, of the class `message.reply`, and its payload.

        Raises:
            ServiceError: the connection ended, or the deadline passed; whether the service did it is not known.
            CacheError: the service says that it failed.
        """
        try:
            async with asyncio.timeout(deadline_seconds):
                credit_bytes = sum(memoryview(view).nbytes for view in payload) or None
                if credit_bytes is not None:
                    await self._take_credit(credit_bytes)
                answer = asyncio.get_running_loop().create_future()
                request_id = self.begin(message, payload, _setter(answer), into=into, credit_bytes=credit_bytes)
                try:
                    found: Answer | CacheError = await answer
                except asyncio.CancelledError:
                    if answer.done() and not answer.cancelled():  # both came in one turn of the loop
                        self.give_back(request_id, message, answer.result())
                    else:
                        self.forget(request_id)
                    raise
        except TimeoutError as error:
            raise ServiceError(f"no answer to {message.op} within {deadline_seconds} s") from error
        if isinstance(found, CacheError):
            raise found
        return found.message, found.payload

    def begin(
        self,
        message: Request,
        payload: Sequence[memoryview | bytes],
        answered: Callable[[Answer | CacheError], None] | None,
        *,
        into: Into | None = None,
        credit_bytes: int | None = None,
    ) -> int:
        """Ask, and have `answered` called once, now or later; None asks without waiting. Returns the request's number.

        Never fails: what cannot be sent is answered by a `CacheError`.

        Args:
            credit_bytes: taken from `credits` by the caller; given back here.
        """
        self._last_id += 1
        pending = _Pending(message, into, answered, credit_bytes)
        if self.is_closed:
            self._fail(pending, self._error or ServiceError("the connection to the cache service is closed"))
            return self._last_id
        try:
            self._connection.send({"op": message.op, "id": self._last_id, **message.fields()}, payload)
        except ProtocolError as error:  # the header is too long
            self._fail(pending, error)
        except _UNSENDABLE as error:
            self._fail(pending, CacheError(f"{message.op} cannot be sent: {error}"))
        else:
            self._pending[self._last_id] = pending
            self._grants.asked(self._last_id, message)
        return self._last_id

    def forget(self, request_id: int) -> None:
        """Nobody waits for the answer any more."""
        if (pending := self._pending.get(request_id)) is not None:
            pending.answered = None

    def give_back(self, request_id: int, message: Request, answer: Answer | CacheError) -> None:
        """Nobody took the answer: what it grants is returned to the service."""
        if isinstance(answer, Answer):
            request = self._grants.to_give_back(request_id, message, answer.message)
            if request is not None:
                self.begin(request, (), None)

    def doubt(self, patience_seconds: float) -> None:
        """An answer is overdue: ask for a sign of life, and end the connection where nothing is heard in time."""
        if self._despair is None and not self.is_closed:
            self.is_silent = True
            loop = asyncio.get_running_loop()
            self._despair = loop.call_later(patience_seconds, self._abandon, patience_seconds)
            self.begin(Release(lease=NO_LEASE), (), None)

    async def close(self) -> None:
        """End the connection, and everything that waits for an answer with `ServiceError`. The arena stays mapped as
        long as slabs of it are used.
        """
        self.close_soon()
        await self.wait_closed()

    def close_soon(self) -> None:
        """`close`, without waiting."""
        self._is_closing = True
        self._connection.close()

    def abort(self) -> None:
        """End the connection at once; what is not sent yet is not sent."""
        self._is_closing = True
        self._connection.abort()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, for whatever reason."""
        await self._connection.wait_closed()

    # What the connection calls.

    def sink(self, header: dict[str, Any], payload_bytes: int) -> Views | None:
        """See `FrameHandler`."""
        self._hear()
        pending = self._pending.get(header["id"]) if type(header.get("id")) is int else None
        if pending is None or pending.answered is None or "error" in header:
            return None
        if pending.into is not None:
            views = pending.into(payload_bytes)
            if (room := sum(view.nbytes for view in views)) != payload_bytes:
                raise ProtocolError(f"{payload_bytes} bytes came where {room} were expected")
            return views
        if payload_bytes > MAX_REPLY_BYTES:
            raise ProtocolError(f"a payload of {payload_bytes} bytes, {MAX_REPLY_BYTES} are allowed here")
        return [memoryview(bytearray(payload_bytes))]

    def frame(self, frame: Frame) -> None:
        """See `FrameHandler`."""
        self._hear()
        request_id = frame.header.pop("id", None)
        error = read_error(frame.header)
        if request_id == 0 and error is not None:
            raise ProtocolError(f"the service ends the connection: {error}")
        pending = self._pending.get(request_id) if type(request_id) is int else None
        if pending is None:
            raise ProtocolError(f"an answer to {repr(request_id)[:20]}, which was not asked")
        reply = None if error is not None else pending.message.reply.read(frame.header)
        answer = error or Answer(reply, frame.views or ())
        del self._pending[request_id]
        self._settle(pending)
        self._grants.answered(request_id, pending.message, reply)
        if pending.answered is not None:
            pending.answered(answer)
        else:
            self.give_back(request_id, pending.message, answer)

    def closed(self, error: Exception | None) -> None:
        """See `FrameHandler`."""
        if self._error is None:
            self._error = self._reason(error)
        if self._despair is not None:
            self._despair.cancel()
        self.credits.close()
        if self.arena is not None:
            self.arena.close()
        pending, self._pending = self._pending, {}
        for request in pending.values():
            self._fail(request, self._error)

    async def _take_credit(self, num_bytes: int) -> None:
        loop = asyncio.get_running_loop()
        granted = loop.create_future()

        def tell(is_granted: bool) -> None:  # on whichever thread gave credit back
            loop.call_soon_threadsafe(_set, granted, is_granted)

        request = self.credits.take(num_bytes, tell)
        try:
            is_granted = await granted
        except asyncio.CancelledError:
            if not self.credits.cancel(request) and not self.is_closed:
                self.credits.give(num_bytes)
            raise
        if not is_granted:
            raise self._error or ServiceError("the connection to the cache service is closed")

    def _fail(self, pending: _Pending, error: CacheError) -> None:
        self._settle(pending)
        if pending.answered is not None:
            pending.answered(error)

    def _settle(self, pending: _Pending) -> None:
        if pending.credit_bytes is not None:
            self.credits.give(pending.credit_bytes)

    def _reason(self, error: Exception | None) -> CacheError:
        if isinstance(error, CacheError):
            return error
        if self._is_closing:
            return ServiceError("the connection to the cache service was closed")
        return ServiceError(f"the connection to the cache service ended{f': {error}' if error else ''}")

    def _hear(self) -> None:
        self.heard_at = time.monotonic()
        self.is_silent = False
        if self._despair is not None:
            self._despair.cancel()
            self._despair = None

    def _abandon(self, patience_seconds: float) -> None:
        self._error = ServiceError(f"the cache service gave no sign of life for {patience_seconds} s")
        self._connection.abort()


def _mapped(greeting: Greeting, *, writable: bool) -> Arena | None:
    if greeting.arena_fd is None or greeting.reply.arena_bytes is None:
        return None
    try:
        return Arena.attach(greeting.arena_fd, greeting.reply.arena_bytes, writable=writable)
    finally:
        os.close(greeting.arena_fd)


def _setter(future: asyncio.Future[Any]) -> Callable[[object], None]:
    return lambda value: _set(future, value)


def _set(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():  # else it was cancelled
        future.set_result(value)
