"""A replica in a process of its own, as its front end sees it. Importable without torch."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets as random_names
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self, cast

from instgenie.balancer.step_costs import StepCosts
from instgenie.edit_cost import EditCost
from instgenie.errors import ReplicaError
from instgenie.order_work import predicted_work
from instgenie.orders import (
    EditOrder,
    EditOutcome,
    HeldTemplate,
    ModelCard,
    ReplicaStats,
    StepReport,
    WarmOrder,
    WarmReport,
)
from instgenie.replica.fields import read_fields
from instgenie.replica.messages import (
    PROTOCOL_VERSION,
    Body,
    Hello,
    Order,
    decode_held,
    decode_outcome,
    encode_keys,
    encode_order,
    read_speed,
)
from instgenie.replica.remote_calls import RemoteCalls
from instgenie.replica.replica_link import GoneError, ReplicaLink, Way
from instgenie_cache.client.backoff import Backoff
from instgenie_cache.errors import ProtocolError
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.handshake import MAX_NAME_CHARACTERS, SharedSecret

log = logging.getLogger(__name__)

_KEYS_AT_A_TIME = 10_000  # so that answers to others pass between; a replica takes ten times as many in one question
_STEADY_SECONDS = 1.0  # a connection that ends sooner is no success


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """How long things may take.

    Attributes:
        connect_seconds: to connect and be let in.
        reconnect_seconds: from the loss of a connection until all that waits for the replica fails.
        retry_seconds, retry_max_seconds: between attempts, at first and at most; twice as long each time.
        ping_seconds: without a word from the replica until it is asked for one.
        silence_seconds: without a word until the connection is taken for lost.
        close_seconds: for what is still to be sent when the front end closes.
    """

    connect_seconds: float = 5.0
    reconnect_seconds: float = 10.0
    retry_seconds: float = 0.02
    retry_max_seconds: float = 1.0
    ping_seconds: float = 5.0
    silence_seconds: float = 30.0
    close_seconds: float = 1.0


class RemoteReplica:
    """A `Replica` behind an address.

    Where the connection is lost it is made again, and what was asked is asked again: the process goes on with its
    orders meanwhile. Where it does not come back in time, or another process has taken its place, everything that waits
    fails with `ReplicaError`, and this object is closed for good.
    """

    def __init__(self, way: Way, settings: RemoteSettings, calls: RemoteCalls, link: ReplicaLink) -> None:
        """Use `connect`."""
        self._way, self._settings, self._calls = way, settings, calls
        self._welcome = link.welcome
        self._speed = link.welcome.speed
        self._closed = asyncio.Event()
        calls.use(link)
        self._link = link  # the newest one
        self._keeping: asyncio.Task[None] | None = asyncio.create_task(self._keep())

    @classmethod
    async def connect(
        cls,
        address: Address | str,
        *,
        client: str = "front end",
        secret: SharedSecret | None = None,
        settings: RemoteSettings = RemoteSettings(),
    ) -> Self:
        """The replica that listens at an address.

        Args:
            client: name for the replica's logs.
            secret: for TCP; ignored over a Unix socket.

        Raises:
            ReplicaError: no replica there, it refused, or it took too long.
            ValueError: a text that is no address.
        """
        where = Address.parse(address) if isinstance(address, str) else address
        hello = Hello(
            version=PROTOCOL_VERSION, client=client[:MAX_NAME_CHARACTERS], front_end=random_names.token_hex(8)
        )
        way, calls = Way(where, hello, secret), RemoteCalls()
        return cls(way, settings, calls, await _dial(way, calls, settings, settings.connect_seconds))

    @property
    def model(self) -> ModelCard:
        """See `Replica`."""
        return self._welcome.model

    @property
    def costs(self) -> StepCosts:
        """What its steps take, as it said last: with its hello, its stats, and each order's end."""
        return self._speed.costs

    @property
    def instance(self) -> str:
        """The run of the process that this object belongs to."""
        return self._welcome.instance

    @property
    def is_draining(self) -> bool:
        """Whether it takes no new orders, or is closed."""
        return self._calls.leaving.is_set()

    @property
    def closed(self) -> bool:
        """Whether everything that is asked fails, from now on."""
        return self._calls.error is not None

    async def wait_leaving(self) -> None:
        """Wait until it takes no new orders, or is closed."""
        await self._calls.leaving.wait()

    async def wait_closed(self) -> str:
        """Wait until it is closed, for whatever reason: the reason."""
        await self._closed.wait()
        return str(self._calls.error)

    def predicted_seconds(self, order: EditOrder) -> float:
        """See `Replica`. Told here, by what the replica last said of its speed."""
        return EditCost(self._speed.seconds_per_token).predict(predicted_work(order, self.model))

    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        """See `Replica`."""
        return cast("EditOutcome", await self._order(order, report))

    async def warm(self, order: WarmOrder, report: Callable[[WarmReport], None]) -> None:
        """See `Replica`."""
        await self._order(order, report)

    async def pin(self, keys: Iterable[str]) -> int:
        """See `Replica`. Pins of a front end that is gone for long are given back."""
        total = 0
        for wanted, header, _ in await self._about_keys("pin", keys):
            count = header.get("count")
            if type(count) is not int or not 0 <= count <= len(wanted):
                raise self._unreadable(f"a count of {len(wanted)} keys is not to be {repr(count)[:40]}")
            total += count
        return total

    async def unpin(self, keys: Iterable[str]) -> None:
        """See `Replica`."""
        await self._about_keys("unpin", keys)

    async def forget(self, keys: Iterable[str]) -> None:
        """See `Replica`."""
        await self._about_keys("forget", keys)

    async def held(self, keys: Iterable[str]) -> dict[str, HeldTemplate]:
        """See `Replica`."""
        held: dict[str, HeldTemplate] = {}
        for wanted, _, payload in await self._about_keys("held", keys):
            try:
                held |= decode_held(memoryview(payload), wanted)
            except ProtocolError as error:
                raise self._unreadable(error) from error
        return held

    async def stats(self) -> ReplicaStats:
        """See `Replica`."""
        header, _ = await self._calls.ask(Body({"op": "stats"}))
        try:
            stats = read_fields(ReplicaStats, header.get("stats"))
            self._speed = read_speed(header)
        except ProtocolError as error:
            raise self._unreadable(error) from error
        return stats

    async def drain(self) -> None:
        """See `Replica`. It drains for all its front ends."""
        await self._calls.ask(Body({"op": "drain"}))

    async def close(self) -> None:
        """Give up what this front end has ordered, and end the connection. The process goes on."""
        if self._keeping is None:
            return
        if not self.closed:
            self._calls.abandon()
        self._fail("the replica was closed")
        keeping, self._keeping = self._keeping, None
        keeping.cancel()
        await asyncio.wait({keeping})
        await self._link.close(self._settings.close_seconds)

    async def _about_keys(self, op: str, keys: Iterable[str]) -> list[tuple[list[str], dict[str, Any], bytes]]:
        """Ask once, or as often as so many keys take: of each question the keys, the answer's header and payload.

        All are put at once: who leaves before they are answered has them done nevertheless.
        """
        wanted = list(dict.fromkeys(keys))
        parts = [wanted[start : start + _KEYS_AT_A_TIME] for start in range(0, len(wanted), _KEYS_AT_A_TIME)] or [[]]
        answers = await asyncio.gather(*(self._calls.ask(Body({"op": op}, encode_keys(part))) for part in parts))
        return [(part, header, payload) for part, (header, payload) in zip(parts, answers, strict=True)]

    async def _order(self, order: Order, report: Callable[[Any], None]) -> EditOutcome | None:
        header, payload = await self._calls.ask(encode_order(order), order.id, report)
        try:
            outcome, speed = decode_outcome(header, payload)
            if (outcome is None) == isinstance(order, EditOrder):
                raise ProtocolError(f"the end of another kind of order: {repr(header.get('end'))[:40]}")
        except ProtocolError as error:
            raise self._unreadable(error) from error
        self._speed = speed
        return outcome

    def _unreadable(self, error: object) -> ReplicaError:
        return ReplicaError(f"the replica at {self._way.address} answered what cannot be read: {error}")

    # Connections.

    async def _keep(self) -> None:
        """Connect again whenever the connection ends, as long as it is the same process."""
        address, loop = self._way.address, asyncio.get_running_loop()
        until = 0.0
        try:
            while True:
                began = loop.time()
                reason = await self._link.wait_closed()
                self._calls.use(None)
                if self._calls.has_ended:
                    raise ReplicaError("it has ended")
                if self._link.is_misunderstood:
                    raise ReplicaError(reason)
                log.warning("the connection to the replica at %s is lost: %s", address, reason)
                if loop.time() - began > _STEADY_SECONDS:  # else it is the same trouble as before
                    until = 0.0
                until = until or loop.time() + self._settings.reconnect_seconds
                self._link = await self._come_back(reason, until)
                self._speed = self._link.welcome.speed
                self._calls.use(self._link)
        except ReplicaError as error:
            self._fail(f"the replica at {address} is gone: {error}")
        except Exception as error:
            log.exception("the connection to the replica at %s failed", address)
            self._fail(f"the replica at {address} cannot be used: {type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        self._calls.fail(reason)
        self._closed.set()

    async def _come_back(self, reason: str, until: float) -> ReplicaLink:
        """A new connection to the same process.

        Args:
            until: when to give up, on the loop's clock.

        Raises:
            ReplicaError: there is none, and why.
        """
        settings, loop = self._settings, asyncio.get_running_loop()
        backoff = Backoff(settings.retry_seconds, settings.retry_max_seconds, settings.retry_seconds)
        failures = 0
        failure: ReplicaError | None = None  # what there is to tell
        while True:
            failures += 1
            pause_seconds = backoff.pause_seconds(failures, random.random())
            left_seconds = max(0.0, until - loop.time())
            try:
                link = await _dial(self._way, self._calls, settings, min(left_seconds, settings.connect_seconds))
            except GoneError as error:
                raise ReplicaError(f"its process has ended ({reason})") from error
            except ReplicaError as error:
                is_cut_short = left_seconds < settings.connect_seconds and isinstance(error.__cause__, TimeoutError)
                if failure is None or not is_cut_short:  # else it says nothing of the replica
                    failure = error
                if loop.time() + pause_seconds >= until:
                    raise ReplicaError(f"{reason}, and in {settings.reconnect_seconds:g} s: {failure}") from failure
                await asyncio.sleep(pause_seconds)
                continue
            if link.welcome.instance == self.instance:
                return link
            link.abort()
            raise ReplicaError(f"its process has ended ({reason}), and another one has taken its place")


async def _dial(way: Way, calls: RemoteCalls, settings: RemoteSettings, timeout_seconds: float) -> ReplicaLink:
    return await ReplicaLink.connect(
        way,
        calls,
        timeout_seconds=timeout_seconds,
        ping_seconds=settings.ping_seconds,
        silence_seconds=settings.silence_seconds,
    )
