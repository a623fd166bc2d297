"""A member of a fleet as the fleet treats it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from instgenie.balancer.replica_view import ReplicaState
from instgenie.balancer.step_costs import StepCosts
from instgenie.orders import ModelCard
from instgenie_server.fleet.known_records import KnownRecords
from instgenie_server.fleet.member import Member

MAX_FAILED = 1000  # orders that are remembered


@dataclass(slots=True, eq=False)
class Seat:
    """What a fleet knows of a member.

    Attributes:
        state: that edits go by.
        card: of its newest process; None before the first one joined.
        costs: that the balancer was told last.
        joined: set when another process has taken the place; whoever waits for one clears it before.
        is_refused: it serves another model than the others.
        is_renewed: another process is to take its place: it gets no more work.
        is_hung: it was given up, and has not said since that it is well.
        answered_at: when it last told what it does, on the fleet's clock.
        failed: orders that failed there, since the last that did not.
        blamed: of such orders, those that another member did then.
        records: what its process said last of templates.
        orders: edits and warm-ups that it has.
        warmups: of them.
    """

    member: Member
    state: ReplicaState = "starting"
    card: ModelCard | None = None
    costs: StepCosts | None = None
    joined: asyncio.Event = field(default_factory=asyncio.Event)
    is_refused: bool = False
    is_renewed: bool = False
    is_hung: bool = False
    answered_at: float = 0.0
    failed: set[str] = field(default_factory=set)
    blamed: int = 0
    records: KnownRecords = field(default_factory=KnownRecords)
    orders: int = 0
    warmups: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> str:
        """The member's."""
        return self.member.id

    @property
    def is_there(self) -> bool:
        """Whether it answers questions: one that gets no more work still does."""
        return self.member.replica.presence.is_there and not self.is_refused

    @property
    def trouble(self) -> str | None:
        """Why it gets no orders though it is there; None where the fleet has nothing against it."""
        if self.is_refused:
            return "it serves another model than the others"
        if self.is_renewed:
            return "another process is to take its place"
        return "it hung, or failed edits that others did" if self.is_hung else None

    def fails(self, order_id: str) -> None:
        """It failed an edit."""
        if len(self.failed) >= MAX_FAILED:
            self.failed.clear()
        self.failed.add(order_id)

    def works(self) -> None:
        """It did an edit, or another process has taken its place: what failed before tells nothing of it."""
        self.failed.clear()
        self.blamed = 0

    @contextmanager
    def at_work(self, warmups: int = 0) -> Iterator[None]:
        """Let an order count as one that it has."""
        self.orders += 1
        self.warmups += warmups
        try:
            yield
        finally:
            self.orders -= 1
            self.warmups -= warmups
            if not self.orders:
                self._idle.set()

    async def idle(self) -> None:
        """Wait until it has no orders."""
        while self.orders:
            self._idle.clear()
            await self._idle.wait()

    def wanted_state(self) -> ReplicaState:
        """By what its connection is, and what the fleet has decided."""
        state = self.member.replica.state
        if state != "ready" or self.card is None:  # one that the fleet has not been told of yet
            return "starting" if state == "ready" else state
        if self.is_refused:
            return "gone"
        return "draining" if self.is_renewed or self.is_hung else "ready"
