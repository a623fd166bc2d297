"""All members of a fleet as one `Replica`: each edit goes where it is done first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from statistics import harmonic_mean
from types import TracebackType
from typing import Self, TypeVar

import structlog

from instgenie.balancer.edit_demand import EditDemand
from instgenie.balancer.order_demand import order_demand, template_name
from instgenie.balancer.policies import POLICIES, PolicyName
from instgenie.balancer.template_map import Warmth
from instgenie.errors import ReplicaAwayError, ReplicaError, ReplicaLostError
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
from instgenie_server.fleet.awaited import Awaited
from instgenie_server.fleet.decision import Decision
from instgenie_server.fleet.heartbeat import Heartbeat, HeartbeatSettings
from instgenie_server.fleet.member import Member
from instgenie_server.fleet.questions import Answers, answers
from instgenie_server.fleet.rolling_restart import renew_all
from instgenie_server.fleet.roster import Roster
from instgenie_server.fleet.seat import Seat
from instgenie_server.fleet.standing import Standing
from instgenie_server.fleet.suspects import Suspects
from instgenie_server.jobs.kept_tasks import KeptTasks
from instgenie_server.presence import Presence
from instgenie_server.replica_process.supervised_replica import ANSWER_SECONDS, SupervisedReplica

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

T = TypeVar("T")

MAX_BLAMED = 3  # orders that failed on a replica and were done by others, before it is taken for broken
LARGE_BYTES = 1 << 20  # of a picture and its mask: looking at every pixel is for a thread
CLOSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """How a fleet works.

    Attributes:
        answer_seconds: that a question about templates waits for a fleet that is away, and, once one member has
            answered, for the others.
        drain_seconds: that a member which is renewed may finish what it has.
    """

    policy: PolicyName = "finish_time"
    heartbeat: HeartbeatSettings = field(default_factory=HeartbeatSettings)
    answer_seconds: float = ANSWER_SECONDS
    drain_seconds: float = 600.0


class FleetReplica:
    """A `Replica` of several, which come and go.

    An edit whose replica goes fails with `ReplicaLostError`; asked for again, it goes to another one at once. While
    none takes orders, edits and warm-ups fail with `ReplicaAwayError`. Questions about templates go to all that are
    there.

    As an async context manager it looks after its members; they are started and closed by whoever made them.
    """

    def __init__(
        self,
        members: Sequence[Member],
        settings: FleetSettings = FleetSettings(),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        now: seconds.
        """
        self._settings, self._now = settings, now
        self._roster = Roster(members, POLICIES[settings.policy](), now)
        self._heartbeat = Heartbeat(self._roster, settings.heartbeat, now)
        self._suspects = Suspects()
        for member in members:
            member.replica.watch(self._suspects.look_again)  # after the roster
        self._tasks = KeptTasks()
        self._renewal: asyncio.Task[None] | None = None
        self._decided: Callable[[Decision], None] = lambda _: None

    async def __aenter__(self) -> Self:
        self._heartbeat.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def presence(self) -> Presence:
        """Whether any member takes orders."""
        return self._roster.presence

    @property
    def size(self) -> int:
        """Members, there or not."""
        return len(self._roster)

    @property
    def num_ready(self) -> int:
        """Members that take orders."""
        return len(self._roster.ready())

    def awaited(self) -> list[Awaited]:
        """Members that take no orders."""
        return self._roster.awaited()

    def expect_end(self) -> None:
        """The server is to stop: from now on it is as it should be that members go."""
        self._roster.is_ending = True

    def on_decision(self, decided: Callable[[Decision], None]) -> None:
        """Have this called with each decision."""
        self._decided = decided

    async def standings(self, patience_seconds: float) -> list[Standing]:
        """All members. Who does not tell in time what it does is left at that."""

        async def stats_of(seat: Seat) -> ReplicaStats | None:
            try:
                async with asyncio.timeout(patience_seconds):
                    return await seat.member.replica.stats()
            except (TimeoutError, ReplicaError):
                return None

        all_stats = await asyncio.gather(*(stats_of(seat) for seat in self._roster))
        return [
            Standing(seat.id, seat.state, stats, seat.member.replica.restarts, seat.member.replica.renewals)
            for seat, stats in zip(self._roster, all_stats, strict=True)
        ]

    def renew(self) -> bool:
        """Begin to have another process take the place of each member's; False where that is under way already."""
        if self._renewal is not None and not self._renewal.done():
            return False
        work = renew_all(self._roster, self._settings.drain_seconds)
        self._renewal = self._tasks.start(work, "renewal of the replicas")
        return True

    # A `Replica`.

    @property
    def model(self) -> ModelCard:
        """See `Replica`."""
        assert self._roster.card is not None, "one was there"
        return self._roster.card

    def predicted_seconds(self, order: EditOrder) -> float:
        """See `Replica`: of any of them. Of two that take 1 s and 9 s, nine of ten edits go to the first one: 1.8 s."""
        ready = self._roster.ready() or [seat for seat in self._roster if seat.card is not None]
        return harmonic_mean(seat.member.replica.predicted_seconds(order) for seat in ready)

    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        """See `Replica`.

        Raises:
            ReplicaAwayError: nobody takes edits.
            ReplicaLostError: the replica that had it is gone.
        """
        asked_at = self._now()
        demand = await self._demand(order)
        for _ in range(self.size):
            async with self._suspects.seat(order.id, partial(self._choose, demand)) as seat:
                waited = self._now() - asked_at
                if order.deadline_seconds is not None:
                    timed = replace(order, deadline_seconds=max(0.0, order.deadline_seconds - waited))
                else:
                    timed = order
                with suppress(ReplicaAwayError):  # it went just now, and has not begun
                    return await self._edit_at(seat, timed, demand, report)
        raise self._roster.away()

    async def warm(self, order: WarmOrder, report: Callable[[WarmReport], None]) -> None:
        """See `Replica`. The records are on one machine: that which has least to do."""
        for _ in range(self.size):
            seat = self._roster.least_busy()
            with seat.at_work(warmups=1), suppress(ReplicaAwayError):
                await seat.member.replica.warm(order, partial(self._warmed, seat, order, report))
                return
        raise self._roster.away()

    async def pin(self, keys: Iterable[str]) -> int:
        """See `Replica`: how many are there where most of them are. Members that are away pin them when they return.

        One that is late has as many as it said last: it pins them, though nobody waits for its word.
        """
        wanted = set(keys)
        if not wanted:
            return 0
        for seat in self._roster:
            if not seat.is_there:
                seat.member.replica.keep_pinned(wanted)
        counted = await self._asked(lambda replica: replica.pin(wanted))
        late = [seat.records.held(wanted).values() for seat in counted.late]
        return max(*counted.told.values(), *(sum(t.num_bytes is not None for t in held) for held in late), 0)

    async def unpin(self, keys: Iterable[str]) -> None:
        """See `Replica`. Members that are away have no pins."""
        wanted = set(keys)
        for seat in self._roster:
            if not seat.is_there:
                await seat.member.replica.unpin(wanted)
        if wanted and self._there():
            with suppress(ReplicaLostError):
                await self._asked(lambda replica: replica.unpin(wanted))

    async def forget(self, keys: Iterable[str]) -> None:
        """See `Replica`. Members that are away, or go meanwhile, forget them before they get edits again."""
        wanted = set(keys)
        if not wanted:
            return
        there = self._there()
        for seat in self._roster:
            seat.records.forget(wanted)
            if seat not in there:
                seat.member.replica.forget_later(wanted)
        ends = await asyncio.gather(*(seat.member.replica.forget(wanted) for seat in there), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, ReplicaLostError):
                raise end

    async def held(self, keys: Iterable[str]) -> dict[str, HeldTemplate]:
        """See `Replica`: the most that one has of each, and the hits of all. One that is late has what it said last."""
        wanted = set(keys)
        if not wanted:
            return {}
        asked = await self._asked(lambda replica: replica.held(wanted))
        for seat, held in asked.told.items():
            seat.records.learn(held)
        known = [*asked.told.values(), *(seat.records.held(wanted) for seat in asked.late)]
        return {key: _together([held[key] for held in known]) for key in wanted}

    async def stats(self) -> ReplicaStats:
        """See `Replica`: the sums over those that are there, and the oldest step.

        Raises:
            ReplicaAwayError: nobody is.
        """
        if not self._there():
            raise self._roster.away()
        told = (await self._asked(lambda replica: replica.stats())).told.values()
        sums = {field.name: sum(getattr(stats, field.name) for stats in told) for field in fields(ReplicaStats)}
        return replace(ReplicaStats(**sums), step_age_seconds=max(stats.step_age_seconds for stats in told))

    async def drain(self) -> None:
        """See `Replica`. Those that are away have nothing to finish."""
        await asyncio.gather(*(seat.member.replica.drain() for seat in self._there()))

    async def close(self) -> None:
        """End what looks after the members; these are left as they are. A second time it does nothing."""
        self.expect_end()
        if self._renewal is not None:
            self._renewal.cancel()
        self._heartbeat.stop()
        await self._tasks.close(CLOSE_SECONDS)

    async def _demand(self, order: EditOrder) -> EditDemand:
        if len(order.picture.data) + len(order.mask) > LARGE_BYTES:
            return await asyncio.to_thread(order_demand, order, self.model)
        return order_demand(order, self.model)

    def _choose(self, demand: EditDemand, taken: Collection[str]) -> Seat | None:
        """Where the edit goes, if not all are taken."""
        began = time.perf_counter()
        seat = self._roster.choose(demand, taken)
        seconds = time.perf_counter() - began
        if seat is None:
            return None
        fleet = self._roster.fleet
        warmth = Warmth(int(fleet.warmths(demand)[fleet.columns().ids.index(seat.id)]))
        self._decided(Decision(self._settings.policy, seat.id, warmth, seconds))
        return seat

    async def _edit_at(
        self, seat: Seat, order: EditOrder, demand: EditDemand, report: Callable[[StepReport], None]
    ) -> EditOutcome:
        fleet = self._roster.fleet

        def stepped(step: StepReport) -> None:
            fleet.step(seat.id, order.id, step.step, self._now())
            report(step)

        fleet.accept(seat.id, demand)
        is_lost = False
        try:
            with seat.at_work():
                outcome = await seat.member.replica.edit(order, stepped)
            fleet.learn(seat.id, order.id, demand, outcome.timings, self._now())
            self._did(seat, order.id)
            return outcome
        except ReplicaAwayError:
            is_lost = True  # as often as it was
            raise
        except ReplicaLostError as error:
            is_lost = True
            losses = self._suspects.lost(order.id)
            often = f" {losses} times" if losses > 1 else ""
            raise ReplicaLostError(f"the edit's replica ended{often} before the edit was done") from error
        except ReplicaError as error:
            seat.fails(order.id)
            if self.num_ready > 1:  # another one may do it
                raise ReplicaLostError(str(error)) from error
            raise
        finally:
            fleet.end(seat.id, order.id, self._now())
            if not is_lost:
                self._suspects.ended(order.id)
            if seat.is_there:
                self._roster.learn_costs(seat)

    def _did(self, seat: Seat, order_id: str) -> None:
        """An edit was done. Members that it failed on before are to blame for that: one that fails all edits has the
        least to do, and would be sent all that come. Orders that fail everywhere blame nobody.
        """
        seat.works()
        for other in self._roster:
            if order_id not in other.failed:
                continue
            other.failed.discard(order_id)
            other.blamed += 1
            if other.blamed >= MAX_BLAMED and not other.is_hung:
                log.error("the replica fails edits that others do: it is given up", replica=other.id)
                other.is_hung = True
                self._roster.refresh()
                self._tasks.start(other.member.replica.give_up(), f"end of replica {other.id}")

    def _warmed(self, seat: Seat, order: WarmOrder, report: Callable[[WarmReport], None], window: WarmReport) -> None:
        report(window)
        if window.outcome != "refused":
            seat.records.learn({window.key: HeldTemplate(window.num_bytes, 0)})
            for other in self._roster:
                other.member.replica.was_recorded([window.key])
            self._tasks.start(self._tell_warmed(seat, order, window), f"name of a window of {order.id}")

    async def _tell_warmed(self, seat: Seat, order: WarmOrder, window: WarmReport) -> None:
        template = await asyncio.to_thread(template_name, order, self.model, window.box)
        self._roster.fleet.warmed(seat.id, template, "host", self._now())

    def _there(self) -> list[Seat]:
        return [seat for seat in self._roster if seat.is_there]

    async def _asked(self, question: Callable[[SupervisedReplica], Awaitable[T]]) -> Answers[T]:
        """What all say that are there; where nobody is, it is waited for a little.

        Raises:
            ReplicaAwayError: nobody is.
            ReplicaLostError: they went before they answered.
        """
        return await answers(await self._there_soon(), question, self._settings.answer_seconds)

    async def _there_soon(self) -> list[Seat]:
        """All that are there; where nobody is, it is waited for a little.

        Raises:
            ReplicaAwayError: nobody is.
        """
        if not self._there():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.answer_seconds):
                    await self._roster.presence.wait()
        there = self._there()
        if not there:
            raise self._roster.away()
        return there


def _together(held: Sequence[HeldTemplate]) -> HeldTemplate:
    sizes = [template.num_bytes for template in held if template.num_bytes is not None]
    return HeldTemplate(max(sizes, default=None), sum(template.hits for template in held))
