"""Asks the members of a fleet, again and again, what they do: who hangs is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from instgenie.errors import ReplicaError
from instgenie.orders import ReplicaStats
from instgenie_server.fleet.hung import HUNG_SECONDS, longest_seconds
from instgenie_server.fleet.roster import Roster
from instgenie_server.fleet.seat import Seat
from instgenie_server.jobs.kept_tasks import KeptTasks

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatSettings:
    """Times in seconds.

    Attributes:
        every_seconds: between two questions to a member.
        answer_seconds: that an answer may take.
        hung_seconds: that a member may be at one step, or say nothing, whatever was predicted.
    """

    every_seconds: float = 2.0
    answer_seconds: float = 5.0
    hung_seconds: float = HUNG_SECONDS


class Heartbeat:
    """Keeps the balancer's view of all members fresh."""

    def __init__(self, roster: Roster, settings: HeartbeatSettings, now: Callable[[], float]) -> None:
        self._roster, self._settings, self._now = roster, settings, now
        self._tasks = KeptTasks()
        self._beats: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to ask."""
        self._beats = [self._tasks.start(self._run(seat), f"heartbeat of replica {seat.id}") for seat in self._roster]

    def stop(self) -> None:
        """Ask no more."""
        for beat in self._beats:
            beat.cancel()

    async def beat(self, seat: Seat) -> None:
        """Ask a member once, if it is there."""
        replica = seat.member.replica
        if not replica.is_connected:
            self._roster.update_presence()
            return
        try:
            async with asyncio.timeout(self._settings.answer_seconds):
                stats = await replica.stats()
        except (TimeoutError, ReplicaError):
            stats = None
        if not replica.is_connected:  # it went meanwhile
            return
        if stats is not None:
            seat.answered_at = self._now()
            self._roster.fleet.hear(seat.id, stats, self._now())
            self._roster.learn_costs(seat)
        reason = self._trouble(seat, stats)
        was_hung, seat.is_hung = seat.is_hung, reason is not None or (seat.is_hung and stats is None)
        self._roster.refresh()
        if reason is not None and not was_hung:
            log.error("the replica hangs: it is given up", replica=seat.id, reason=reason)
            await replica.give_up()

    async def _run(self, seat: Seat) -> None:
        while True:
            await asyncio.sleep(self._settings.every_seconds)
            try:
                await self.beat(seat)
            except Exception:  # it would be heard of no more, and get no edits
                log.exception("the heartbeat of a replica failed", replica=seat.id)

    def _trouble(self, seat: Seat, stats: ReplicaStats | None) -> str | None:
        """Why the member is of no use; None where it is."""
        silent_seconds = self._now() - seat.answered_at
        if stats is None:
            is_silent = silent_seconds >= self._settings.hung_seconds
            return f"it has not answered for {silent_seconds:.0f} s" if is_silent else None
        view = self._roster.fleet[seat.id]
        most_seconds = longest_seconds(view.costs, view.profile.limits.rows, self._settings.hung_seconds)
        if not stats.step_age_seconds > most_seconds:
            return None
        return f"it has been at one step for {stats.step_age_seconds:.0f} s, longer than {most_seconds:.0f} s"
