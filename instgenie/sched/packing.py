"""Which edits and lanes go together in one step. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from instgenie.sched.lanes import Lane
from instgenie.sched.step_batch import LaneSteps
from instgenie.sched.tracked_edit import TrackedEdit


class Packing:
    """A batch that is put together. What is offered first is taken whatever it costs, the rest where there is room."""

    def __init__(self, most_rows: int, most_lane_rows: int) -> None:
        self._most_rows, self._most_lane_rows = most_rows, min(most_rows, most_lane_rows)
        self._batch_key: str | None = None
        self._steps: dict[str, tuple[Lane, list[int]]] = {}
        self.edits: dict[str, TrackedEdit] = {}
        self.rows = 0

    @property
    def lanes(self) -> tuple[LaneSteps, ...]:
        """Steps that are recorded."""
        return tuple(LaneSteps(template, tuple(steps)) for template, (_, steps) in self._steps.items())

    def steps(self) -> Iterable[tuple[Lane, list[int]]]:
        """Lanes that take steps, and which."""
        return self._steps.values()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was taken."""
        return self._batch_key is None

    def __contains__(self, lane: Lane) -> bool:
        """Whether the lane takes a step."""
        return lane.task.template in self._steps

    def add(self, edits: Sequence[TrackedEdit], lane: Lane | None = None) -> bool:
        """Take these edits with the lane's next step, all or none; whether there was room for them."""
        key = lane.task.batch_key if lane else edits[0].task.batch_key
        rows = sum(edit.rows for edit in edits) + (lane.task.rows if lane else 0)
        if not self.is_empty and (key != self._batch_key or self.rows + rows > self._most_rows):
            return False
        self._batch_key = key
        self.rows += rows
        self.edits.update((edit.task.id, edit) for edit in edits)
        if lane:
            self._steps[lane.task.template] = (lane, [lane.next_step])
        return True

    def extend(self, lane: Lane, until: int) -> None:
        """More steps of a lane that takes one, up to that one, as there is room."""
        _, steps = self._steps[lane.task.template]
        while steps[-1] + 1 < until and self.rows + lane.task.rows <= self._most_lane_rows:
            steps.append(steps[-1] + 1)
            self.rows += lane.task.rows


def pack(running: Iterable[TrackedEdit], lanes: Sequence[Lane], packing: Packing) -> None:
    """Add a step of the running edits and of the lanes that they drive, those first that were admitted first.

    Args:
        lanes: that are driven.
    """
    lane_of = {lane.task.template: lane for lane in lanes}
    units: list[tuple[int, int, TrackedEdit | Lane]] = [(edit.number, 1, edit) for edit in running]
    for lane in lanes:
        admitted = [edit.number for edit in lane.edits.values() if edit.phase != "ready"]
        units.append((min(admitted), 0, lane))
    for _, _, unit in sorted(units, key=lambda unit: unit[:2]):
        if isinstance(unit, Lane):
            _add_lane(unit, packing)
        elif unit.task.id not in packing.edits and _can_go(unit, lane_of.get(unit.template), packing):
            packing.add([unit])
    for lane in lanes:
        if lane in packing:
            ahead = [edit.template_step for edit in lane.edits_in("running")]
            if all(step > lane.next_step for step in ahead):
                packing.extend(lane, until=min(ahead, default=lane.task.steps))


def _add_lane(lane: Lane, packing: Packing) -> None:
    """A step of the lane with the edits that need just this one.

    Where it is not kept they go together or not at all, since who is left behind has to wait for the whole template.
    Where it is kept one of them goes along for certain: else a lane that fills a batch would leave its edit behind.
    """
    riders = [edit for edit in lane.edits_in("running") if edit.template_step == lane.next_step]
    packing.add(riders[:1] if lane.task.keeps_steps else riders, lane)


def _can_go(edit: TrackedEdit, lane: Lane | None, packing: Packing) -> bool:
    if edit.route != "lane" or lane is None:
        return True
    if edit.template_step == lane.next_step:
        return lane.task.keeps_steps and lane in packing
    return edit.template_step < lane.next_step
