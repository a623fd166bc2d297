"""Orders that a replica works on for front ends, which come and go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from instgenie.errors import InstGenIEError, ReplicaError
from instgenie.orders import EditOrder, Replica, WarmReport
from instgenie.replica.kept_ends import KeptEnd, KeptEnds
from instgenie.replica.messages import Body, Order, Report, encode_error, encode_outcome, encode_report
from instgenie.replica.speed import Speed

log = logging.getLogger(__name__)


class Listener(Protocol):
    """A front end that waits for an order."""

    def report(self, body: Body) -> None:
        """The order has got further."""
        ...

    def end(self, end: KeptEnd) -> None:
        """It has ended. Called once, last."""
        ...


@dataclass(slots=True, eq=False)
class _Running:
    """An order that is worked on.

    Attributes:
        told: what who attaches later is told first: all windows of a warm-up, an edit's last step.
        giving_up: cancels the order that nobody listens to, unless somebody comes in time.
    """

    order: Order
    digest: str
    listeners: set[Listener] = field(default_factory=set)
    told: list[Body] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    giving_up: asyncio.TimerHandle | None = None


class RunningOrders:
    """Begins orders, goes on with them while nobody listens for a while, and hands their ends to `KeptEnds`."""

    def __init__(
        self,
        replica: Replica,
        kept: KeptEnds,
        *,
        max_bytes: int,
        orphan_seconds: float,
        speed: Callable[[], Speed],
    ) -> None:
        """Args:
        max_bytes: of pictures and masks of all orders at a time; one alone may have more.
        orphan_seconds: that an order goes on without a listener.
        """
        self._replica, self._kept = replica, kept
        self._max_bytes, self._orphan_seconds = max_bytes, orphan_seconds
        self._speed = speed
        self._running: dict[str, _Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # those of orders that were given up among them
        self._is_draining = False
        self.num_bytes = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._running)

    def reserve(self, num_bytes: int) -> None:
        """Room for an order that is being received; to be released when it was, or is not to be.

        Raises:
            ReplicaError: all orders together would be too long.
        """
        if self.num_bytes and self.num_bytes + num_bytes > self._max_bytes:
            raise ReplicaError(
                f"an order of {num_bytes} bytes beside others of {self.num_bytes}: "
                f"the replica takes {self._max_bytes} at a time"
            )
        self.num_bytes += num_bytes

    def release(self, num_bytes: int) -> None:
        """The reverse of `reserve`."""
        self.num_bytes -= num_bytes

    def submit(self, order: Order, digest: str, listener: Listener) -> None:
        """Begin an order; or listen to it where it is worked on already, or has ended and nobody took the end.

        Raises:
            ReplicaError: another order of the same id is there, or the replica takes no more.
        """
        now = asyncio.get_running_loop().time()
        running, end = self._running.get(order.id), self._kept.get(order.id, now)
        known = running or end
        if known is not None and known.digest != digest and running is not None:
            raise ReplicaError(f"another order with the id {order.id} is worked on")
        if running is not None:
            self._attach(running, listener)
        elif end is not None and end.digest == digest:
            listener.end(end)
        else:
            self._begin(order, digest, listener)

    def leave(self, listener: Listener) -> None:
        """A listener is gone, and may come back as another one."""
        for running in self._running.values():
            if listener in running.listeners:
                running.listeners.remove(listener)
                if not running.listeners:
                    loop = asyncio.get_running_loop()
                    running.giving_up = loop.call_later(self._orphan_seconds, self._give_up, running)
                return

    def cancel(self, order: str, listeners: set[Listener]) -> None:
        """These listeners want the order no more; if others do, it goes on. An unknown order is no error."""
        running = self._running.get(order)
        if running is None:
            self._kept.acknowledge(order)
            return
        running.listeners -= listeners
        if not running.listeners:
            self._give_up(running)

    async def drain(self) -> None:
        """Begin nothing more, and wait until everything has ended."""
        self._is_draining = True
        await self._idle.wait()

    async def close(self) -> None:
        """Give everything up; listeners are told."""
        self._is_draining = True
        error = encode_error(ReplicaError("the replica was closed"))
        for running in list(self._running.values()):
            self._end(running, error)
            assert running.task is not None
            running.task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, order: Order, digest: str, listener: Listener) -> None:
        if self._is_draining:
            raise ReplicaError("the replica is draining: it takes no new orders")
        num_bytes = _order_bytes(order)
        self.reserve(num_bytes)
        running = self._running[order.id] = _Running(order, digest, {listener})
        self._idle.clear()
        running.task = asyncio.create_task(self._run(running))
        self._tasks.add(running.task)
        running.task.add_done_callback(lambda task: self._done(task, num_bytes))

    def _done(self, task: asyncio.Task[None], num_bytes: int) -> None:
        self._tasks.discard(task)
        self.release(num_bytes)
        if not self._tasks:
            self._idle.set()

    def _attach(self, running: _Running, listener: Listener) -> None:
        if running.giving_up is not None:
            running.giving_up.cancel()
            running.giving_up = None
        running.listeners.add(listener)
        for body in running.told:
            listener.report(body)

    def _give_up(self, running: _Running) -> None:
        log.info("order %s is given up: nobody waits for it", running.order.id)
        self._forget(running)
        assert running.task is not None
        running.task.cancel()

    async def _run(self, running: _Running) -> None:
        try:
            body = await self._work(running)
        except asyncio.CancelledError:
            if running.task is not None and running.task.cancelling():
                raise
            body = encode_error(ReplicaError("the replica gave the order up"))
        except InstGenIEError as error:
            body = encode_error(error)
        except Exception as error:
            log.exception("order %s failed", running.order.id)
            body = encode_error(ReplicaError(f"{type(error).__name__}: {error}"))
        self._end(running, body)

    async def _work(self, running: _Running) -> Body:
        def report(report: Report) -> None:
            self._report(running, report)

        order = running.order
        if isinstance(order, EditOrder):
            return encode_outcome(await self._replica.edit(order, report), self._speed())
        await self._replica.warm(order, report)
        return encode_outcome(None, self._speed())

    def _report(self, running: _Running, report: Report) -> None:
        if self._running.get(running.order.id) is not running:
            return
        body = encode_report(report)
        if not isinstance(report, WarmReport):
            running.told.clear()
        running.told.append(Body(body.fields))  # a preview is told once
        for listener in running.listeners:
            listener.report(body)

    def _end(self, running: _Running, body: Body) -> None:
        if self._running.get(running.order.id) is not running:
            return  # it was given up while it ended
        self._forget(running)
        end = self._kept.add(running.order.id, running.digest, body, asyncio.get_running_loop().time())
        for listener in running.listeners:
            listener.end(end)

    def _forget(self, running: _Running) -> None:
        if running.giving_up is not None:
            running.giving_up.cancel()
        if self._running.get(running.order.id) is running:
            del self._running[running.order.id]


def _order_bytes(order: Order) -> int:
    mask_bytes = len(order.mask) if isinstance(order, EditOrder) else 0
    return len(order.picture.data) + mask_bytes
