"""A replica for front ends in other processes: lets them in, and keeps what they have not fetched yet."""

from __future__ import annotations

import asyncio
import logging
import secrets as random_names
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instgenie.errors import InstGenIEError
from instgenie.orders import Replica
from instgenie.replica.fields import read_fields, to_fields
from instgenie.replica.front_door import FrontDoor
from instgenie.replica.kept_ends import KeptEnds
from instgenie.replica.messages import HELLO, PROTOCOL_VERSION, Hello, Welcome
from instgenie.replica.pin_holders import PinHolders
from instgenie.replica.running_orders import RunningOrders
from instgenie.replica.service_limits import ServiceLimits
from instgenie.replica.session import Session, SessionContext
from instgenie.replica.speed import speed_of
from instgenie_cache.errors import ProtocolError, ServiceError
from instgenie_cache.service.listeners import Listener, listen_tcp, listen_unix
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.handshake import (
    MAX_NAME_CHARACTERS,
    Heard,
    SharedSecret,
    hear_hello,
    refuse_hello,
    welcome,
)

log = logging.getLogger(__name__)

_CLOSE_SECONDS = 5.0  # for front ends to read what is on its way to them
_LOOK_SECONDS = 0.05  # how often it is looked whether all ends were fetched


class ReplicaService:
    """Serves a replica until `close`. The replica stays the caller's, who closes it after that."""

    def __init__(
        self,
        replica: Replica,
        addresses: Sequence[Address],
        *,
        limits: ServiceLimits = ServiceLimits(),  # noqa: B008 - frozen
        secrets: Mapping[str, SharedSecret] | None = None,
        socket_mode: int = 0o600,
    ) -> None:
        """Nothing is opened yet.

        Args:
            secrets: by name; who comes over TCP has to prove one of them.
            socket_mode: of a Unix socket's file: whoever may write to it may connect.

        Raises:
            ValueError: a TCP address, and no secret: whoever reaches the port could have everything edited.
        """
        if not secrets and not all(address.is_unix for address in addresses):
            raise ValueError("a replica that listens at a port needs a secret")
        self._replica, self._wanted, self._limits = replica, tuple(addresses), limits
        self._secrets, self._socket_mode = dict(secrets or {}), socket_mode
        self.instance = random_names.token_hex(8)
        self._kept = KeptEnds(limits.kept_bytes, limits.kept_seconds)
        self._orders = RunningOrders(
            replica,
            self._kept,
            max_bytes=limits.order_bytes,
            orphan_seconds=limits.orphan_seconds,
            speed=lambda: speed_of(replica),
        )
        self._pins = PinHolders()
        self._context = SessionContext(replica, self._orders, self._kept, self._pins, limits, self.drain)
        self._doors: list[FrontDoor] = []
        self._sessions: set[Session] = set()
        self._leaving: dict[str, asyncio.TimerHandle] = {}  # front ends without a connection
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining: asyncio.Task[None] | None = None

    @property
    def addresses(self) -> list[Address]:
        """Where it listens."""
        return [door.listener.address for door in self._doors]

    @property
    def connections(self) -> int:
        """Front ends that are connected."""
        return len(self._sessions)

    async def start(self) -> None:
        """Listen, and take front ends from now on.

        Raises:
            ServiceError: an address cannot be had.
        """
        try:
            for address in self._wanted:
                self._doors.append(FrontDoor(self._listen(address), self._greet))
        except ServiceError:
            await self._stop_listening()
            raise

    async def drain(self) -> None:
        """Begin no new orders, and wait until those that were taken have ended. Front ends still come and go."""
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
            for session in self._sessions:
                session.notice("draining")
        await asyncio.shield(self._draining)

    async def wait_fetched(self, seconds: float) -> int:
        """Wait until all ends were acknowledged, but not longer; how many were not."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while len(self._kept) and loop.time() < until:
            await asyncio.sleep(_LOOK_SECONDS)
            self._kept.expire(loop.time())
        return len(self._kept)

    async def close(self) -> None:
        """Give up what runs, send what is on its way, and end all connections."""
        await self._stop_listening()
        await self._orders.close()
        sessions = tuple(self._sessions)
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await asyncio.gather(*(session.finish() for session in sessions))
        except TimeoutError:
            log.warning("%d front ends did not read all that was sent to them", len(self._sessions))
        for session in sessions:
            session.abort()
            await session.connection.wait_closed()
        for timer in self._leaving.values():
            timer.cancel()
        tasks = [task for task in (self._draining, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _drain(self) -> None:
        await self._orders.drain()
        await self._replica.drain()

    def _listen(self, address: Address) -> Listener:
        if address.path is None:
            return listen_tcp(address)
        return listen_unix(Path(address.path), self._socket_mode)

    async def _stop_listening(self) -> None:
        for door in self._doors:
            await door.close()
        self._doors.clear()

    # Letting front ends in.

    async def _greet(self, sock: socket.socket) -> None:
        is_unix = sock.family == socket.AF_UNIX
        heard = await hear_hello(sock, HELLO, PROTOCOL_VERSION, _read_hello, None if is_unix else self._secrets)
        if len(self._sessions) >= self._limits.connections:
            error = ServiceError(f"{self._limits.connections} front ends are connected, more are not allowed")
            await refuse_hello(sock, heard.request_id, error)
            raise error
        session = Session(self._context, heard.hello, self._forget)
        self._admit(session)
        try:
            await self._welcome(sock, heard)
            await asyncio.get_running_loop().connect_accepted_socket(lambda: session.connection, sock)
        except BaseException as error:
            session.connection.abort()
            session.closed(error if isinstance(error, Exception) else None)
            raise
        if self._draining is not None:  # it may have begun since the reply was made
            session.notice("draining")

    async def _welcome(self, sock: socket.socket, heard: Heard[Hello]) -> None:
        speed = speed_of(self._replica)
        reply = Welcome(
            instance=self.instance,
            model=self._replica.model,
            is_draining=self._draining is not None,
            seconds_per_token=speed.seconds_per_token,
            costs=speed.costs,
        )
        await welcome(sock, heard.request_id, to_fields(reply))

    def _admit(self, session: Session) -> None:
        self._sessions.add(session)
        timer = self._leaving.pop(session.hello.front_end, None)
        if timer is not None:
            timer.cancel()

    def _forget(self, session: Session) -> None:
        """A connection has ended. Its front end may come back; if it does not, its pins are given back."""
        self._sessions.discard(session)
        front_end = session.hello.front_end
        if all(other.hello.front_end != front_end for other in self._sessions) and front_end not in self._leaving:
            loop = asyncio.get_running_loop()
            self._leaving[front_end] = loop.call_later(self._limits.orphan_seconds, self._left, front_end)

    def _left(self, front_end: str) -> None:
        del self._leaving[front_end]
        keys = self._pins.leave(front_end)
        if keys:
            task = asyncio.create_task(self._unpin(keys))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _unpin(self, keys: set[str]) -> None:
        try:
            await self._replica.unpin(keys)
        except InstGenIEError as error:
            log.warning("pins of a front end that is gone were not given back: %s", error)


def _read_hello(fields: dict[str, Any]) -> Hello:
    hello = read_fields(Hello, fields)
    for name in (hello.client, hello.front_end):
        if len(name) > MAX_NAME_CHARACTERS:
            raise ProtocolError(f"a front end's name has at most {MAX_NAME_CHARACTERS} characters, not {len(name)}")
    return hello
