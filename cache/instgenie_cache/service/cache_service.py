"""The cache service: lets clients in, and serves one store to all of them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Awaitable
from functools import partial
from typing import cast

from instgenie_cache.errors import CacheError, ServiceError
from instgenie_cache.service.announced_bytes import AnnouncedBytes
from instgenie_cache.service.listeners import Listener, listen_tcp, listen_unix, prepare_accepted
from instgenie_cache.service.private_memory import PrivateMemory
from instgenie_cache.service.served_store import ServedStore
from instgenie_cache.service.service_metrics import ServiceMetrics
from instgenie_cache.service.service_settings import ServiceSettings
from instgenie_cache.service.session import ClientRights, Session, SessionContext
from instgenie_cache.service.session_limits import SessionLimits
from instgenie_cache.service.shared_pins import SharedPins
from instgenie_cache.service.workers import Workers
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.connection import FrameConnection, FrameHandler
from instgenie_cache.wire.handshake import HelloRequest, accept_hello, receive_hello, refuse_hello
from instgenie_cache.wire.messages import HelloReply

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 5.0
MAX_HANDSHAKES = 64  # at a time and address; beyond it the oldest gives way, so that silent strangers keep nobody out
GRACE_SECONDS = 10.0  # for requests in progress when the service ends
LINGER_SECONDS = 1.0  # that a client which reads steps where they are has to notice that its connection was ended
_SECRET_SHARE = 2  # of all connections those with one secret may take a half
_ANNOUNCED_SHARE = 2  # of the budget, for what one namespace is writing
_PRIVATE_SHARE = 8  # of the arena's bytes may be used outside it for steps that do not fit
_ACCEPT_PAUSE_SECONDS = 0.1  # after a failure, as where there are no more file descriptors


class CacheService:
    """Serves a store until `close`. The store stays the caller's, who closes it after that."""

    def __init__(self, store: ServedStore, settings: ServiceSettings, metrics: ServiceMetrics | None = None) -> None:
        """Nothing is opened yet.

        Args:
            metrics: what `store` tells of itself should be in there, too.
        """
        self._store, self._settings = store, settings
        self._metrics = metrics or ServiceMetrics()
        self._name = secrets.token_hex(8)  # clients that find another one know that their leases are gone
        self._workers = Workers()
        self._context = SessionContext(
            store=store,
            workers=self._workers,
            metrics=self._metrics,
            pins=SharedPins(store),
            private=PrivateMemory(store.arena.num_bytes // _PRIVATE_SHARE),
            limits=SessionLimits(idle_seconds=settings.idle_seconds),
            announced=AnnouncedBytes(store.stats().budget_bytes // _ANNOUNCED_SHARE),
        )
        self._shared_secrets = settings.shared_secrets()
        self._listeners: list[Listener] = []
        self._duties: set[asyncio.Task[None]] = set()  # for as long as the service listens
        self._greetings: dict[Listener, dict[asyncio.Task[None], None]] = {}  # oldest first
        self._sessions: dict[Session, FrameConnection] = {}
        self._by_secret: Counter[str] = Counter()  # sessions
        self._is_closed = False

    @property
    def addresses(self) -> list[Address]:
        """Where it listens."""
        return [listener.address for listener in self._listeners]

    @property
    def connections(self) -> int:
        """Clients that are connected."""
        return len(self._sessions)

    async def start(self) -> None:
        """Listen, and take clients from now on.

        Raises:
            ServiceError: an address cannot be had.
        """
        settings = self._settings
        try:
            self._listeners.append(listen_unix(settings.socket, settings.mode))
            if settings.tcp is not None:
                self._listeners.append(listen_tcp(Address.parse(settings.tcp)))
        except ServiceError:
            self._stop_listening()
            raise
        for listener in self._listeners:
            self._begin_duty(self._accept(listener))
        if settings.sync == "interval":
            self._begin_duty(self._sync_now_and_then())

    async def close(self) -> None:
        """Take no more clients, answer requests in progress, end all connections, and flush the store.

        Requests have `GRACE_SECONDS`, and sweeps are broken off; the store has the time that its disk takes.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._context.is_stopping.set()
        self._stop_listening()
        await _cancel([*self._duties, *(task for tasks in self._greetings.values() for task in tasks)])
        sessions = dict(self._sessions)
        try:
            async with asyncio.timeout(GRACE_SECONDS):
                await asyncio.gather(*(_end(session, connection) for session, connection in sessions.items()))
        except TimeoutError:
            log.warning("%d connections were cut off with requests in progress", len(self._sessions))
        for session in tuple(self._sessions):
            session.abort()
        for connection in sessions.values():
            await connection.wait_closed()
        try:
            await asyncio.to_thread(self._store.flush)  # the workers may all be busy
        except CacheError as error:
            log.error("not all that was committed is on disk: %s", error)
        finally:
            await asyncio.to_thread(self._workers.close)

    # Letting clients in.

    async def _accept(self, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        greetings = self._greetings.setdefault(listener, {})
        while True:
            try:
                sock, _ = await loop.sock_accept(listener.sock)
            except OSError as error:
                log.warning("no connection could be accepted: %s", error)
                await asyncio.sleep(_ACCEPT_PAUSE_SECONDS)
                continue
            if len(greetings) >= MAX_HANDSHAKES:
                oldest = next(iter(greetings))
                del greetings[oldest]  # now: it ends only at the loop's next turn
                oldest.cancel()
            task = asyncio.create_task(self._greet(sock))
            greetings[task] = None
            task.add_done_callback(partial(self._greeted, greetings, sock))

    def _greeted(
        self, greetings: dict[asyncio.Task[None], None], sock: socket.socket, task: asyncio.Task[None]
    ) -> None:
        greetings.pop(task, None)
        if task.cancelled():  # maybe before it began
            sock.close()
        _tell_of_failure(task)

    async def _greet(self, sock: socket.socket) -> None:
        try:
            prepare_accepted(sock)
            is_unix = sock.family == socket.AF_UNIX
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                request = await receive_hello(sock, None if is_unix else self._shared_secrets)
                session, connection = await self._admit(sock, request, shares_memory=is_unix)
        except (CacheError, OSError, TimeoutError) as error:
            reason = f"no hello in {HANDSHAKE_SECONDS:g} s" if isinstance(error, TimeoutError) else error
            log.info("a connection got no further than the handshake: %s", reason)
            self._metrics.refused()
            sock.close()
            return
        except BaseException:
            sock.close()
            raise
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)
        except BaseException as error:
            sock.close()
            session.closed(error if isinstance(error, Exception) else None)
            raise

    async def _admit(
        self, sock: socket.socket, request: HelloRequest, *, shares_memory: bool
    ) -> tuple[Session, FrameConnection]:
        """Say yes, or no, to a client whose hello was right."""
        hello, settings = request.hello, self._settings
        error = self._refusal(request.secret_name)
        if error is not None:
            await refuse_hello(sock, request.request_id, error)
            raise error
        arena = self._store.arena
        # Who maps the arena can read all of it, whatever its namespace.
        fd = arena.fd(hello.arena == "write") if self._may_map(request, shares_memory) else None
        rights = ClientRights(hello.client, hello.namespace, maps_arena=fd is not None)
        made: list[FrameConnection] = []

        def connect(handler: FrameHandler) -> FrameConnection:
            linger_seconds = 0.0 if fd is None else LINGER_SECONDS
            made.append(
                _Connection(
                    handler, arena.num_bytes, linger_seconds=linger_seconds, stall_seconds=settings.idle_seconds
                )
            )
            return made[0]

        session = Session(self._context, rights, connect, partial(self._forget, request.secret_name))
        self._sessions[session] = made[0]
        if request.secret_name is not None:
            self._by_secret[request.secret_name] += 1
        self._metrics.connected()
        reply = HelloReply(
            service=self._name,
            arena_bytes=None if fd is None else arena.num_bytes,
            credit_bytes=settings.credit_bytes,
            payload_bytes=arena.num_bytes,
        )
        try:
            await accept_hello(sock, request.request_id, reply, fd)
        except BaseException:
            session.closed(None)
            raise
        return session, made[0]

    def _may_map(self, request: HelloRequest, shares_memory: bool) -> bool:
        hello = request.hello
        return shares_memory and hello.arena != "none" and hello.namespace is None

    def _refusal(self, secret_name: str | None) -> ServiceError | None:
        """Why one more client cannot be let in."""
        limit = self._settings.max_connections
        if len(self._sessions) >= limit:
            return ServiceError(f"{limit} clients are connected, more are not allowed")
        share = -(-limit // _SECRET_SHARE)
        if secret_name is not None and self._by_secret[secret_name] >= share:
            return ServiceError(f"{share} clients with secret {secret_name!r} are connected, more are not allowed")
        return None

    def _forget(self, secret_name: str | None, session: Session) -> None:
        if secret_name is not None:
            self._by_secret[secret_name] -= 1
        del self._sessions[session]
        self._metrics.disconnected()

    # What runs beside.

    async def _sync_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._settings.sync_seconds)
            try:
                await self._workers.run_slow(self._store.sync)
            except CacheError as error:
                log.warning("records could not be synced: %s", error)

    def _begin_duty(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._duties.add(task)
        task.add_done_callback(self._duties.discard)
        task.add_done_callback(_tell_of_failure)

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()


class _Connection(FrameConnection):
    """Counts what it sends as sent when the system has it: until then the memory it lies in must stay as it is."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).set_write_buffer_limits(high=0)
        super().connection_made(transport)


def _tell_of_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a task of the service failed", exc_info=error)


async def _end(session: Session, connection: FrameConnection) -> None:
    await session.finish()
    await connection.wait_closed()


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
