"""One replica for the server, though the process behind it ends and another one takes its place."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from logging import INFO, WARNING
from types import TracebackType
from typing import Protocol, Self, TypeVar

import structlog

from instgenie.balancer.replica_view import ReplicaState
from instgenie.balancer.step_costs import StepCosts
from instgenie.errors import ReplicaAwayError, ReplicaError, ReplicaLostError
from instgenie.orders import (
    EditOrder,
    EditOutcome,
    HeldTemplate,
    ModelCard,
    Replica,
    ReplicaStats,
    StepReport,
    WarmOrder,
    WarmReport,
)
from instgenie_server.jobs.kept_tasks import KeptTasks
from instgenie_server.presence import Presence
from instgenie_server.processes.kept_process import Life
from instgenie_server.processes.reminders import Reminders
from instgenie_server.processes.restarts import Restarts

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

ANSWER_SECONDS = 10.0
GIVE_UP_SECONDS = 60.0

T = TypeVar("T")


class LinkedReplica(Replica, Protocol):
    """A replica behind a connection."""

    @property
    def costs(self) -> StepCosts:
        """What its steps take, by its last word."""
        ...

    @property
    def closed(self) -> bool:
        """Whether the connection is gone for good, and whatever is asked fails."""
        ...

    @property
    def is_draining(self) -> bool:
        """Whether it takes no new orders: it will end once it has done those that it has."""
        ...

    async def wait_leaving(self) -> None:
        """Wait until it takes no new orders, or is closed."""
        ...

    async def wait_closed(self) -> str:
        """Wait until the connection is gone for good, whichever way: the reason."""
        ...


class Host(Protocol):
    """Where replicas run."""

    async def ready(self) -> Life:
        """The life of the process there, once it can be connected to."""
        ...

    def give_up(self, life: Life) -> None:
        """That process has been out of reach for long: another one is to take its place, if that can be arranged."""
        ...


class Elsewhere:
    """A replica that somebody else starts: whether it runs, connecting tells."""

    def __init__(self) -> None:
        self._life = Life(None)

    async def ready(self) -> Life:
        """See `Host`; such a life never ends."""
        return self._life

    def give_up(self, life: Life) -> None:
        """See `Host`. It is not ours to end."""


class SupervisedReplica:
    """A `Replica` that connects to the process on its host again and again.

    While there is none, edits and warm-ups fail at once with `ReplicaAwayError`, and with `ReplicaLostError` those that
    it was busy with when it went; whoever can wait does so by `presence`. Questions about templates wait for it a
    little. Templates that were pinned are pinned again on the next one.

    As an async context manager it lets go of the replica at the end.

    Attributes:
        presence: whether there is one.
        state: ready where there is one. draining: it only finishes what it has. gone: there is none any more.
        restarts: how often one came after another had gone by itself.
        renewals: after another that was ended for it.
    """

    def __init__(
        self,
        host: Host,
        connect: Callable[[], Awaitable[LinkedReplica]],
        restarts: Restarts | None = None,
        answer_seconds: float = ANSWER_SECONDS,
        give_up_seconds: float = GIVE_UP_SECONDS,
        name: str | None = None,
        reminders: Callable[[], Reminders] = Reminders,
    ) -> None:
        """Nothing is connected yet.

        Args:
            connect: raises `ReplicaError` where there is nothing to connect to.
            restarts: pauses between attempts to connect.
            answer_seconds: that a question about templates waits for a replica that is away, and that a new one has
                to pin templates before it gets edits.
            give_up_seconds: that a process may be there and not be reached.
            name: in log lines, of one replica among others.
            reminders: of a process that cannot be reached, when that is told again.
        """
        self.presence = Presence(is_there=False)
        self.state: ReplicaState = "starting"
        self.restarts = self.renewals = 0
        self._came_before = False
        self._watchers: list[Callable[[], None]] = []
        self._log = log.bind(replica=name) if name else log
        self._host, self._connect, self._reminders = host, connect, reminders
        self._answer_seconds, self._give_up_seconds = answer_seconds, give_up_seconds
        self._pauses = restarts or Restarts(random.random)
        self._replica: LinkedReplica | None = None
        self._served: tuple[LinkedReplica, Life] | None = None  # connected, whether it takes orders or not
        self._last_life: Life | None = None  # of that
        self._last: LinkedReplica | None = None  # says what is served and what it costs while there is none
        self._pinned: set[str] = set()
        self._forgotten: set[str] = set()  # by none yet, and not recorded since
        self._reason = "it is not there yet"
        self._away_since: float | None = time.monotonic()
        self._tasks = KeptTasks()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether there is one that answers, be it that it only finishes what it has."""
        return self._served is not None and self.state != "gone"

    @property
    def away_reason(self) -> str:
        """Why there is none, or was none when there last was none."""
        return self._reason

    @property
    def away_seconds(self) -> float:
        """How long there has been none."""
        return 0.0 if self._away_since is None else time.monotonic() - self._away_since

    def watch(self, changed: Callable[[], None]) -> None:
        """Have this called when the state changes."""
        self._watchers.append(changed)

    async def start(self) -> None:
        """Wait until there is one, however long that takes."""
        self._task = self._tasks.start(self._run(), "the replica's connection")
        await self.presence.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def model(self) -> ModelCard:
        """See `Replica`."""
        return self._known().model

    @property
    def costs(self) -> StepCosts:
        """See `LinkedReplica`. While there is none, those of the last one."""
        return self._known().costs

    def predicted_seconds(self, order: EditOrder) -> float:
        """See `Replica`."""
        return self._known().predicted_seconds(order)

    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        """See `Replica`.

        Raises:
            ReplicaAwayError: there is no replica.
            ReplicaLostError: there is none any more.
        """
        replica = self._present()
        try:
            return await replica.edit(order, report)
        except ReplicaError as error:
            raise self._told(error, replica) from error

    async def warm(self, order: WarmOrder, report: Callable[[WarmReport], None]) -> None:
        """See `Replica`.

        Raises:
            ReplicaAwayError: there is no replica.
            ReplicaLostError: there is none any more.
        """
        replica = self._present()
        try:
            await replica.warm(order, report)
        except ReplicaError as error:
            raise self._told(error, replica) from error

    async def pin(self, keys: Iterable[str]) -> int:
        """See `Replica`."""
        wanted = set(keys)
        self.keep_pinned(wanted)
        return await self._asked(lambda replica: replica.pin(wanted)) if wanted else 0

    def keep_pinned(self, keys: Iterable[str]) -> None:
        """Have templates pinned on the next one, while there is none."""
        wanted = set(keys)
        self._pinned |= wanted
        self.was_recorded(wanted)

    def was_recorded(self, keys: Iterable[str]) -> None:
        """Templates are there again, or are to be: in a cache that replicas share, the next one would drop what another
        one has made since it was told to forget them.
        """
        self._forgotten.difference_update(keys)

    async def unpin(self, keys: Iterable[str]) -> None:
        """See `Replica`. With a replica that is away, its pins have gone."""
        wanted = set(keys)
        self._pinned -= wanted
        if wanted and self._replica is not None:
            with suppress(ReplicaLostError):
                await self._asked(lambda replica: replica.unpin(wanted))

    async def forget(self, keys: Iterable[str]) -> None:
        """See `Replica`. Where it goes before it has forgotten them, the next one does, before it gets edits."""
        wanted = set(keys)
        self.forget_later(wanted)
        if wanted:
            await self._asked(lambda replica: replica.forget(wanted & self._forgotten))  # not what is there again
            self._forgotten -= wanted

    def forget_later(self, keys: Iterable[str]) -> None:
        """Have templates forgotten by the next one, before it gets edits."""
        wanted = set(keys)
        self._pinned -= wanted
        self._forgotten |= wanted

    async def held(self, keys: Iterable[str]) -> dict[str, HeldTemplate]:
        """See `Replica`."""
        wanted = set(keys)
        return await self._asked(lambda replica: replica.held(wanted)) if wanted else {}

    async def stats(self) -> ReplicaStats:
        """See `Replica`.

        Raises:
            ReplicaAwayError: there is no replica, not even one that only finishes what it has.
        """
        if self._served is None or self.state == "gone":
            raise ReplicaAwayError(f"there is no replica at the moment: {self._reason}")
        return await self._served[0].stats()

    async def drain(self) -> None:
        """See `Replica`. One that is away has nothing to finish."""
        if self._replica is not None:
            await self._replica.drain()

    async def give_up(self) -> None:
        """Take the replica for lost: whatever it was asked fails, and its process is ended where that can be done."""
        if self._served is not None:
            replica, life = self._served
            self._host.give_up(life)
            await replica.close()

    async def close(self) -> None:
        """See `Replica`. A second time it does nothing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        tried: Life | None = None
        while True:
            life = await self._host.ready()
            if life is not tried:
                tried, since, reminders = life, time.monotonic(), self._reminders()
            try:
                replica = await self._connect()
            except ReplicaError as error:
                self._reason = str(error)
                pause_seconds = self._pauses.seconds_after(0)
                tried_seconds = time.monotonic() - since
                tell = self._log.warning if reminders.is_due(tried_seconds) else self._log.debug
                tell(
                    "the replica cannot be reached: it is tried again", reason=str(error), seconds=round(tried_seconds)
                )
                if tried_seconds >= self._give_up_seconds:
                    self._host.give_up(life)
                await _ended(life, pause_seconds)
                continue
            came_at = time.monotonic()
            self._served = replica, life
            try:
                was_told_to = await self._serve(replica, life)
                self._reason = life.reason or await replica.wait_closed()
                if not life.is_renewed:
                    self._log.log(INFO if was_told_to else WARNING, "the replica is gone", reason=self._reason)
            finally:
                self._served = None
                self._become("gone")
                await replica.close()
            tried = None
            if life.is_renewed:
                await life.ended.wait()
            elif not life.ended.is_set():  # nobody says when it is worth trying again
                await _ended(life, self._pauses.seconds_after(time.monotonic() - came_at))

    async def _serve(self, replica: LinkedReplica, life: Life) -> bool:
        """Be this replica until it is gone; one that drains only finishes what it has. Whether it said so before."""
        leaving, closed, ended = ends = (
            asyncio.create_task(_says_that_it_leaves(replica)),
            asyncio.create_task(replica.wait_closed()),
            asyncio.create_task(life.ended.wait()),
        )
        try:
            await self._pin_again(replica)
            card = replica.model
            self._log.info("connected to the replica", model=card.name, revision=card.revision, device=card.device)
            is_renewal = self._last_life is not None and self._last_life.is_renewed
            self._last, self._last_life = replica, life
            if not (replica.is_draining or replica.closed):
                self._count_return(is_renewal=is_renewal)
                self._become("ready", replica)
            await asyncio.wait({leaving, ended}, return_when=asyncio.FIRST_COMPLETED)
            self._let_go(replica)
            says_so = leaving.done() and leaving.result()
            if says_so and not (replica.closed or life.ended.is_set()):
                self._reason = "it takes no more edits"
                self._log.info("the replica takes no more edits: it finishes those that it has")
            await asyncio.wait({closed, ended}, return_when=asyncio.FIRST_COMPLETED)
            return says_so
        finally:
            for end in ends:
                end.cancel()

    def _count_return(self, *, is_renewal: bool) -> None:
        if self._came_before and is_renewal:
            self.renewals += 1
        elif self._came_before:
            self.restarts += 1
        self._came_before = True

    async def _pin_again(self, replica: LinkedReplica) -> None:
        """Have it keep what the one before kept, and not what was dropped while there was none. A cache that hangs does
        not keep edits waiting.
        """
        pinned: set[str] = set()
        try:
            async with asyncio.timeout(self._answer_seconds):
                while self._forgotten or self._pinned - pinned:  # more may come meanwhile
                    if forgotten := set(self._forgotten):
                        await replica.forget(forgotten)
                        self._forgotten -= forgotten
                        pinned -= forgotten
                    if missing := self._pinned - pinned:
                        await replica.pin(missing)
                        pinned |= missing
                if given_up := pinned - self._pinned:
                    await replica.unpin(given_up)
        except (TimeoutError, ReplicaError) as error:
            self._log.warning("the replica may not know what is pinned, and what was dropped", reason=repr(error))

    def _known(self) -> LinkedReplica:
        assert self._last is not None, "it was started"
        return self._last

    def _present(self) -> LinkedReplica:
        if self._replica is None:
            raise ReplicaAwayError(f"there is no replica at the moment: {self._reason}")
        return self._replica

    async def _waited_for(self) -> LinkedReplica:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._answer_seconds):
                await self.presence.wait()
        return self._present()

    async def _asked(self, question: Callable[[LinkedReplica], Awaitable[T]]) -> T:
        """The answer to a question, which waits for a replica a little.

        Raises:
            ReplicaAwayError: there is none.
            ReplicaLostError: it went before it answered.
        """
        replica = await self._waited_for()
        try:
            return await question(replica)
        except ReplicaError as error:
            raise self._told(error, replica) from error

    def _told(self, error: ReplicaError, replica: LinkedReplica) -> ReplicaError:
        """What came of work on a replica, by what has become of that."""
        if replica.is_draining or replica.closed:
            self._let_go(replica)  # now: who asks again at once is not to be sent there again
        if replica is self._replica:
            return error
        is_renewed = self._last_life is not None and replica is self._last and self._last_life.is_renewed
        if is_renewed or (replica.is_draining and not replica.closed):
            return ReplicaAwayError("the replica made place for another one before it was done")
        return ReplicaLostError("the replica ended before it was done")

    def _let_go(self, replica: LinkedReplica) -> None:
        if self._replica is replica:
            has_ended = self._served is not None and self._served[1].ended.is_set()
            self._become("gone" if replica.closed or has_ended else "draining")

    def _become(self, state: ReplicaState, replica: LinkedReplica | None = None) -> None:
        """Args:
        replica: that takes orders from now on; None where there is none.
        """
        if replica is not None:
            self._away_since = None
        elif self._away_since is None:
            self._away_since = time.monotonic()
        self._replica, self.state = replica, state
        self.presence.change(is_there=replica is not None)
        for changed in self._watchers:
            changed()


async def _says_that_it_leaves(replica: LinkedReplica) -> bool:
    """Wait until it takes no new orders: whether it said so, and was not lost. It may be gone a moment later."""
    await replica.wait_leaving()
    return not replica.closed


async def _ended(life: Life, longest_seconds: float) -> None:
    """Wait so long, or until the process has ended."""
    with suppress(TimeoutError):
        async with asyncio.timeout(longest_seconds):
            await life.ended.wait()
