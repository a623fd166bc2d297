"""Templates that are being recorded, and the edits that read what is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from instgenie.sched.fairness import FairQueue
from instgenie.sched.task import LaneTask
from instgenie.sched.tracked_edit import TrackedEdit


@dataclass(slots=True)
class Lane:
    """A template that is recorded.

    Attributes:
        next_step: that is recorded next: all before it are.
        holds_memory: from its first batch on; a warm-up, from when its turn has come.
        edits: that read what it makes, by id: ready, running or parked.
    """

    task: LaneTask
    next_step: int = 0
    holds_memory: bool = False
    edits: dict[str, TrackedEdit] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether all steps were taken; it is to be committed."""
        return self.next_step == self.task.steps

    @property
    def is_driven(self) -> bool:
        """Whether it takes a step in each batch: there is one to take, and an admitted edit that needs it."""
        return not self.is_complete and any(edit.phase in ("running", "parked") for edit in self.edits.values())

    @property
    def is_free(self) -> bool:
        """Whether it has steps to take that no edit needs: a warm-up. For an edit that is to be admitted it waits."""
        return not self.is_complete and not self.edits

    def is_lost_on(self, edit: TrackedEdit) -> bool:
        """Whether the edit's next step can be taken no earlier than when the template is complete."""
        task = self.task
        return not task.rides or (edit.template_step < self.next_step and not task.keeps_steps)

    def edits_in(self, phase: str) -> list[TrackedEdit]:
        """Its edits of that phase, in order of their admission."""
        return sorted((edit for edit in self.edits.values() if edit.phase == phase), key=lambda edit: edit.number)


class LaneBook:
    """Lanes by template: those that were begun, or that an edit wants; and warm-ups that wait for their turn."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self._tasks: dict[str, LaneTask] = {}  # of warm-ups that wait
        self._waiting = FairQueue()

    def __len__(self) -> int:
        """How many there are but for warm-ups that wait."""
        return len(self._lanes)

    def __iter__(self) -> Iterator[Lane]:
        """All but warm-ups that wait."""
        return iter(self._lanes.values())

    @property
    def num_waiting(self) -> int:
        """Warm-ups that wait for their turn."""
        return len(self._waiting)

    @property
    def has_complete(self) -> bool:
        """Whether one is to be committed, which frees its memory."""
        return any(lane.is_complete for lane in self)

    @property
    def num_bytes(self) -> int:
        """Of device memory that lanes hold."""
        return sum(lane.task.num_bytes for lane in self if lane.holds_memory)

    def submit(self, task: LaneTask) -> None:
        """A warm-up; of equal tenants the one that arrived first goes first.

        Raises:
            ValueError: the template is being recorded already, or the lane has no steps or no rows.
        """
        if task.template in self._lanes or task.template in self._tasks:
            raise ValueError(f"template {task.template!r} is being recorded already")
        _check(task)
        self._tasks[task.template] = task
        self._waiting.put(task.template, task.tenant, task.arrived, task.steps * task.rows)

    def join(self, edit: TrackedEdit, task: LaneTask | None = None) -> None:
        """Let an edit read from its template's lane. The task is begun where there is none; a warm-up need not wait.

        Raises:
            ValueError: there is no lane, or it does not have all steps that the edit needs, or no rows.
        """
        lane = self._lanes.get(edit.template)
        waiting = self._tasks.get(edit.template)
        task = lane.task if lane else waiting or task
        if task is None or task.template != edit.template:
            raise ValueError(f"edit {edit.task.id!r} needs template {edit.template!r}, which is not being recorded")
        _check(task)
        if edit.template_step + edit.steps_left > task.steps:
            last = edit.template_step + edit.steps_left - 1
            raise ValueError(f"edit {edit.task.id!r} needs step {last} of a lane of {task.steps} steps")
        if waiting:
            self._waiting.remove(edit.template)
            del self._tasks[edit.template]
        self._lanes.setdefault(edit.template, Lane(task)).edits[edit.task.id] = edit

    def of(self, edit: TrackedEdit) -> Lane | None:
        """The lane that the edit reads from."""
        return self._lanes.get(edit.template) if edit.route == "lane" else None

    def edits_of(self, template: str) -> list[TrackedEdit]:
        """Edits that read from the template's lane."""
        lane = self._lanes.get(template)
        return list(lane.edits.values()) if lane else []

    def driven(self) -> list[Lane]:
        """Lanes that take a step in each batch."""
        return [lane for lane in self if lane.is_driven]

    def next_free(self) -> Lane | None:
        """The lane without edits that goes on: one that was begun, else the warm-up whose turn it is."""
        free: Iterable[Lane] = (lane for lane in self if lane.is_free)
        lane = next(iter(free), None)
        if lane is None and self._waiting:
            template = self._waiting.take().id
            lane = self._lanes[template] = Lane(self._tasks.pop(template))
        return lane

    def remove(self, template: str) -> None:
        """It is over."""
        self._lanes.pop(template, None)
        self._tasks.pop(template, None)
        self._waiting.remove(template)


def _check(task: LaneTask) -> None:
    if task.steps < 1 or task.rows < 1:
        raise ValueError(f"the lane of template {task.template!r} has {task.steps} steps of {task.rows} rows")
