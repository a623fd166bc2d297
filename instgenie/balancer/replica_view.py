"""One replica as a front end knows it: its state, and how far its edits are. Pure: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from instgenie.balancer.edit_demand import EditDemand
from instgenie.balancer.edit_price import EditPrice
from instgenie.balancer.slots import Slots, width
from instgenie.balancer.step_costs import StepCosts
from instgenie.balancer.template_map import Warmth
from instgenie.orders import ReplicaStats
from instgenie.sched.limits import BatchLimits

# ready: takes orders. draining: finishes what it has. gone: its process is, and with it all that it had.
ReplicaState = Literal["starting", "ready", "draining", "gone"]

_MOST_FOREIGN = 1024  # edits of other front ends


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaProfile:
    """What does not change while a replica's process lives.

    Attributes:
        machine: replicas of one machine share the tiers below the device.
        usual_steps: of an edit of which nothing else is known.
    """

    id: str
    machine: str
    limits: BatchLimits = field(default_factory=BatchLimits)
    usual_steps: int = 20


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is left of all edits.

    Attributes:
        edits: that are not over.
        seconds, tokens, published_seconds: those of `EditPrice`, over the steps that are left.
    """

    edits: int
    seconds: float
    tokens: int
    published_seconds: float


@dataclass(slots=True)
class _Edit:
    """Attributes:
    end: the replica's step after which it is done; None until it runs.
    began: when that was told, on the caller's clock.
    """

    demand: EditDemand
    warmth: Warmth
    price: EditPrice
    end: int | None = None
    began: float | None = None

    def steps_left(self, taken: int) -> int:
        """When the replica has taken so many."""
        return self.demand.steps if self.end is None else max(0, self.end - taken)


class ReplicaView:
    """Kept by events. What is told of edits that are not known is ignored: they may be over already.

    Attributes:
        costs: `learn_costs` changes them.
        state: set by whoever knows.
        heard_at: when something was last heard of it, on the caller's clock.
        steps: that it has taken, as far as is known.
    """

    def __init__(self, profile: ReplicaProfile, costs: StepCosts, now: float, state: ReplicaState = "starting") -> None:
        self.profile, self.costs, self.heard_at, self.state = profile, costs, now, state
        self.steps = 0
        self._waiting: dict[str, _Edit] = {}
        self._running: dict[str, _Edit] = {}
        self._foreign: list[_Edit] = []  # of other front ends
        # Found once, and true as long as all edits take their steps as planned.
        self._slots: Slots | None = None
        self._waiting_backlog: Backlog | None = None

    def __len__(self) -> int:
        """Edits that are not over."""
        return len(self._waiting) + len(self._running) + len(self._foreign)

    def demands(self) -> list[EditDemand]:
        """Edits that were sent from here and are not over: those that have begun, then those that wait."""
        return [edit.demand for edit in chain(self._running.values(), self._waiting.values())]

    def began(self, edit_id: str) -> float | None:
        """When an edit was told to have begun; None where that was not told."""
        edit = self._running.get(edit_id)
        return None if edit is None else edit.began

    def accept(self, demand: EditDemand, warmth: Warmth) -> None:
        """An edit was sent there.

        Raises:
            ValueError: it is there already.
        """
        if demand.id in self._waiting or demand.id in self._running:
            raise ValueError(f"edit {demand.id!r} is at replica {self.profile.id!r} already")
        self._waiting[demand.id] = self._edit(demand, warmth)
        self._plan_anew()

    def step(self, edit_id: str, step: int, now: float) -> None:
        """An edit has taken so many steps; 0 just before its first one."""
        self._heard(now)
        edit = self._waiting.pop(edit_id, None)
        if edit is not None:
            self._running[edit_id] = edit
            edit.began = now
        elif (edit := self._running.get(edit_id)) is None:
            return
        left = edit.demand.steps - edit.demand.computed(step)
        if edit.end is not None and edit.end - left == self.steps + 1:
            self.steps += 1  # the first to tell of the batch's next step; those beside it have taken it too
            if self._waiting and self._has_room():  # who waits was planned to begin
                self._slots = None
        elif edit.end != self.steps + left:
            edit.end = self.steps + left
            self._plan_anew()

    def end(self, edit_id: str, now: float) -> EditDemand | None:
        """An edit is over, however it ended: what it was; None where it was not known."""
        self._heard(now)
        edit = self._running.pop(edit_id, None) or self._waiting.pop(edit_id, None)
        if edit is None:
            return None
        if edit.steps_left(self.steps):  # else its place was known to be free by now
            self._plan_anew()
        return edit.demand

    def hear(self, stats: ReplicaStats, now: float) -> list[EditDemand]:
        """It has said what it has: what is believed of it is corrected where that cannot be.

        It may not know yet of what was just sent. What it has besides is other front ends'. What has begun, and is not
        there any more, is over.

        Returns:
            Edits that must be over, though nobody said so.
        """
        self._heard(now)
        there = stats.waiting + stats.running + stats.finishing
        first_done = sorted(self._running, key=lambda edit_id: self._running[edit_id].steps_left(self.steps))
        over = [self._running.pop(edit_id).demand for edit_id in first_done[: max(0, len(first_done) - there)]]
        # Of more than that it would be no use to know: it is full for long.
        unknown = min(max(0, there - len(self._running) - len(self._waiting)), _MOST_FOREIGN)
        self._foreign = [self._foreign_edit(stats)] * unknown
        self._plan_anew()
        return over

    def learn_costs(self, costs: StepCosts, now: float) -> None:
        """It has other costs than was thought."""
        self._heard(now)
        self.costs = costs
        for edit in self._edits():
            edit.price = EditPrice.of(edit.demand, edit.warmth, costs)
        self._plan_anew()

    def empty(self) -> None:
        """It has nothing any more."""
        self._waiting.clear()
        self._running.clear()
        self._foreign.clear()
        self._plan_anew()

    def slots(self) -> Slots:
        """When the batch's places are free."""
        if self._slots is None:
            limits, taken = self.profile.limits, self.steps
            room, edits = limits.edits, []
            for edit in self._edits():
                left, wide = edit.steps_left(taken), width(edit.price.rows, limits)
                if edit.end is not None and left:  # it runs, whatever place it was thought to need
                    wide = min(wide, room)
                    room -= wide
                if left and wide:
                    edits.append((left, wide, edit.price.seconds))
            self._slots = Slots.fill(limits.edits, taken, edits)
        return self._slots

    def backlog(self) -> Backlog:
        """What is left to do."""
        if self._waiting_backlog is None:
            self._waiting_backlog = self._left_of(self._waiting.values())
        waiting, begun = self._waiting_backlog, self._left_of(chain(self._running.values(), self._foreign))
        return Backlog(
            begun.edits + waiting.edits,
            begun.seconds + waiting.seconds,
            begun.tokens + waiting.tokens,
            begun.published_seconds + waiting.published_seconds,
        )

    def _left_of(self, edits: Iterable[_Edit]) -> Backlog:
        count, seconds, tokens, published = 0, 0.0, 0, 0.0
        for edit in edits:
            left, price = edit.steps_left(self.steps), edit.price
            count += 1
            seconds += left * price.seconds
            tokens += left * price.mask_tokens
            published += left * price.published_seconds
        return Backlog(count, seconds, tokens, published)

    def _edits(self) -> Iterator[_Edit]:
        """In the order in which they take places."""
        return chain(self._running.values(), self._foreign, self._waiting.values())

    def _edit(self, demand: EditDemand, warmth: Warmth) -> _Edit:
        return _Edit(demand, warmth, EditPrice.of(demand, warmth, self.costs))

    def _foreign_edit(self, stats: ReplicaStats) -> _Edit:
        """One of which no more is known than what is usual there; half of its steps are done, as on average."""
        rows, steps = max(1, round(stats.tokens / max(1, stats.running))), self.profile.usual_steps
        edit = self._edit(
            EditDemand(id="", template="", steps=steps, passes=1, text_tokens=rows, active_tokens=0, total_tokens=0),
            Warmth.DEVICE,
        )
        edit.end = self.steps + (steps + 1) // 2
        return edit

    def _has_room(self) -> bool:
        taken = sum(edit.steps_left(self.steps) > 0 for edit in self._running.values())
        return taken < self.profile.limits.edits

    def _plan_anew(self) -> None:
        self._slots = self._waiting_backlog = None

    def _heard(self, now: float) -> None:
        self.heard_at = max(self.heard_at, now)
