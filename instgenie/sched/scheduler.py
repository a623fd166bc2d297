"""What a replica does next. Pure: no tensors, no clock, no I/O. See README.md."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from instgenie.sched.deadlines import Deadlines
from instgenie.sched.edit_book import Counts, EditBook
from instgenie.sched.fairness import FairQueue
from instgenie.sched.lanes import Lane, LaneBook
from instgenie.sched.limits import BatchLimits
from instgenie.sched.pace import Pace
from instgenie.sched.packing import Packing, pack
from instgenie.sched.ready_queue import ReadyQueue
from instgenie.sched.stage_budget import StageBudget
from instgenie.sched.stages import Stages
from instgenie.sched.step_batch import Ended, Opened, StageItem, StageKind, StepBatch, StepResult
from instgenie.sched.task import EditTask, LaneTask, Route
from instgenie.sched.tracked_edit import Phase, TrackedEdit


@dataclass(frozen=True, slots=True)
class _Settled:
    """A batch of steps beside which there was nothing to decide.

    Attributes:
        changes: of `EditBook`, when it was put together.
    """

    batch: StepBatch
    packing: Packing
    changes: int


class Scheduler:
    """Events in, batches out. Belongs to one thread; all times are seconds on the caller's clock.

    A batch has a step or a stage item. One with a step is answered by one `update` before the next `schedule`. A stage
    item counts as done when `schedule` is called again, and took until then. So an edit that is encoded, and `opened`
    before the next step is scheduled, takes part in that. What is told of edits that are not known is ignored: they may
    be over already.
    """

    def __init__(self, limits: BatchLimits | None = None) -> None:
        self._limits = limits or BatchLimits()
        self._edits = EditBook()
        self._waiting = FairQueue()
        self._ready = ReadyQueue()
        self._lanes = LaneBook()
        self._stages = Stages()
        self._stage_budget = StageBudget(self._limits.stage_share)
        self._pace = Pace()
        self._deadlines = Deadlines(self._pace)
        self._cancelled: dict[str, None] = {}  # in order
        self._packing: Packing | None = None  # whose step was not answered yet
        self._settled: _Settled | None = None
        self._batches_without_free_lane = 0
        self._numbers = itertools.count()

    def submit(self, task: EditTask) -> None:
        """Take an edit.

        Raises:
            ValueError: its id is known, or it has no steps or no rows.
        """
        if task.steps < 1 or task.rows("records") < 1:
            raise ValueError(f"edit {task.id!r} has {task.steps} steps of {task.rows('records')} rows")
        edit = self._edits.add(task)
        self._waiting.put(task.id, task.tenant, task.order, task.steps * edit.usual_rows)
        self._deadlines.watch(edit)

    def submit_lane(self, lane: LaneTask) -> None:
        """Take a warm-up: a lane without edits.

        Raises:
            ValueError: the template is being recorded already, or the lane has no steps or no rows.
        """
        self._lanes.submit(lane)

    def cancel(self, edit_id: str) -> None:
        """Give an edit up: the next batch says that it ended, unless its picture is being decoded."""
        edit = self._edits.get(edit_id)
        if edit and edit.phase != "decoding":
            self._cancelled[edit_id] = None

    def cancel_lane(self, template: str) -> bool:
        """Give a warm-up up, unless edits need it; whether the template's lane is over by that, or there was none."""
        if self._lanes.edits_of(template):
            return False
        self._lanes.remove(template)
        return True

    def opened(self, opened: Opened) -> bool:
        """An edit that was to be encoded can run; whether it is still known. If it is not, its lane is not begun.

        Where the template is being recorded already the edit joins that lane, and `opened.lane` is not begun.

        Raises:
            ValueError: its route is a lane, and there is none, or one that does not have all its steps.
        """
        edit = self._edits.get(opened.edit)
        if edit is None:
            return False
        assert edit.phase == "opening", f"edit {opened.edit!r} is {edit.phase}"
        edit.template, edit.first_step = opened.template, opened.first_step
        self._set_route(edit, opened.route, opened.lane)
        self._move(edit, "ready")
        self._park_if_lost(edit)
        return True

    def want_preview(self, edit_id: str) -> None:
        """Ask for a picture of what an edit has so far; ignored unless it is ready, running or parked."""
        edit = self._edits.get(edit_id)
        if edit and edit.phase in ("ready", "running", "parked"):
            self._stages.want_preview(edit_id)

    def drop(self, edit_id: str) -> None:
        """It failed outside of a step: no more is heard of it."""
        edit = self._edits.get(edit_id)
        if edit:
            self._remove(edit)

    def committed(self, template: str) -> None:
        """The template's records are complete and can be read: its edits go on with them."""
        self._close_lane(template, "records")

    def lane_failed(self, template: str) -> None:
        """The template will not be recorded: its edits go on computing all tokens."""
        self._close_lane(template, "dense")

    def schedule(self, now: float) -> StepBatch:
        """What to do now; the batch is empty where there is nothing until something is told or `next_deadline`."""
        assert self._packing is None, "the last batch was not answered"
        if (again := self._settled_batch(now)) is not None:
            return again
        self._settled = None
        self._stage_budget.end(now)
        for edit in list(self._edits.of("decoding")):
            self._remove(edit)
        ended = tuple(self._end(now))
        self._admit()
        stage = self._choose_stage(self._stage_budget.allows)
        if stage is None:
            packing = self._pack()
            if not packing.is_empty:
                self._packing = packing
                batch = StepBatch(edits=tuple(packing.edits), lanes=packing.lanes, ended=ended, rows=packing.rows)
                self._settle(batch, packing)
                return batch
            stage = self._choose_stage(lambda _: True)  # no step waits for it
        if stage is not None:
            self._stage_budget.begin(stage.kind, now)
        return StepBatch(stage=stage, ended=ended)

    def update(self, result: StepResult) -> None:
        """Tell what came of the last batch's step."""
        packing, self._packing = self._packing, None
        assert packing is not None, "no batch has to be answered"
        self._stage_budget.stepped(result.seconds)
        self._pace.observe(packing.rows, result.seconds)
        for lane, steps in packing.steps():
            lane.next_step += len(steps)
        for edit_id in result.failed:
            self.drop(edit_id)
        for edit_id, edit in packing.edits.items():
            if self._edits.get(edit_id) is edit and edit_id not in result.stuck:
                edit.taken += 1 + result.leaps.get(edit_id, 0)
                if not edit.steps_left:
                    self._leave_lane(edit)
                    self._stages.forget(edit_id)
                    self._move(edit, "finished")
        for edit_id, route in result.rerouted.items():
            for edit in self._edits.known([edit_id]):
                self._set_route(edit, route)
        for template in result.failed_lanes:
            self.lane_failed(template)
        for lane, _ in packing.steps():
            for edit in list(lane.edits.values()):
                self._park_if_lost(edit)

    def next_deadline(self) -> float | None:
        """When `schedule` should be called though nothing came: an edit cannot be done in time from then on."""
        return self._deadlines.next()

    def counts(self) -> Counts:
        """What there is just now."""
        return self._edits.counts(lanes=len(self._lanes), waiting_lanes=self._lanes.num_waiting)

    # Edits from one phase to the next.

    def _move(self, edit: TrackedEdit, phase: Phase) -> None:
        self._edits.move(edit, phase)
        if phase == "ready":
            self._ready.put(edit.task.id, edit.task.tenant, edit.task.order, edit.turn)
        elif phase in ("running", "parked"):
            edit.number = next(self._numbers)

    def _remove(self, edit: TrackedEdit) -> None:
        """Forget it. What it was charged is given back but for one step: to come and go is not free."""
        task = edit.task
        self._leave_lane(edit)
        if edit.phase != "waiting":
            self._waiting.charge(task.tenant, -edit.usual_rows * (task.steps - max(edit.taken, 1)))
        self._waiting.remove(task.id)
        self._ready.remove(task.id)
        self._stages.forget(task.id)
        self._deadlines.forget(task.id)
        self._cancelled.pop(task.id, None)
        self._edits.remove(edit)

    def _end(self, now: float) -> Iterator[Ended]:
        for edit in self._edits.known(tuple(self._cancelled)):
            self._remove(edit)
            yield Ended(edit.task.id, "cancelled")
        for edit in self._edits.known(self._deadlines.due(now)):
            self._remove(edit)
            yield Ended(edit.task.id, "expired")

    def _set_route(self, edit: TrackedEdit, route: Route, lane: LaneTask | None = None) -> None:
        """Have an edit go another way, and charge its tenant what that costs more."""
        if edit.phase in ("finished", "decoding"):
            return
        rows = edit.usual_rows
        self._settled = None
        self._leave_lane(edit)
        if route == "lane":
            self._lanes.join(edit, lane)
        edit.route = route
        if route != "lane" and edit.phase == "parked":
            self._move(edit, "ready")
        if edit.usual_rows != rows:
            self._waiting.charge(edit.task.tenant, (edit.usual_rows - rows) * edit.steps_left)
            self._deadlines.watch(edit)

    def _leave_lane(self, edit: TrackedEdit) -> None:
        lane = self._lanes.of(edit)
        if lane is not None:
            lane.edits.pop(edit.task.id, None)

    def _park_if_lost(self, edit: TrackedEdit) -> None:
        """Let an edit wait until its template is complete, where the lane has gone on without it."""
        lane = self._lanes.of(edit)
        if lane is not None and lane.is_lost_on(edit):
            if edit.phase == "running":
                self._move(edit, "parked")
            elif edit.phase == "ready" and lane.holds_memory:
                self._ready.remove(edit.task.id)
                self._move(edit, "parked")

    def _close_lane(self, template: str, route: Route) -> None:
        for edit in self._lanes.edits_of(template):
            self._set_route(edit, route)
        self._lanes.remove(template)

    # The batch.

    def _has_bytes(self, num_bytes: int = 0) -> bool:
        limit = self._limits.num_bytes
        return limit is None or self._edits.num_bytes + self._lanes.num_bytes + num_bytes <= limit

    def _admit(self) -> None:
        if self._limits.joins == "empty" and self._edits.of("running"):
            return
        while (edit_id := self._ready.first()) is not None and self._fits(edit := self._edits[edit_id]):
            edit.turn = self._ready.take().at
            lane = self._lanes.of(edit)
            if lane is not None:
                lane.holds_memory = True
            self._move(edit, "parked" if lane and lane.is_lost_on(edit) else "running")

    def _fits(self, edit: TrackedEdit) -> bool:
        """Whether an edit can be admitted beside what runs, every edit and lane of which may take a step at once.

        Where nothing runs it can, whatever it costs, but for memory that will be free without it.
        """
        running, driven, lane = self._edits.of("running"), self._lanes.driven(), self._lanes.of(edit)
        has_memory = lane is None or lane.holds_memory or self._has_bytes(lane.task.num_bytes)
        if not running and not driven:
            return has_memory or not (self._edits.of("finished") or self._lanes.has_complete)
        rows = sum(other.rows for other in running) + sum(other.task.rows for other in driven)
        slots = len(running)
        if lane is None or not lane.is_lost_on(edit):
            rows += edit.rows
            slots += 1
        if lane is not None and not lane.is_driven and not lane.is_complete:
            rows += lane.task.rows
        keys = {other.task.batch_key for other in running} | {other.task.batch_key for other in driven}
        fits = slots <= self._limits.edits and rows <= self._limits.rows
        return fits and has_memory and keys <= {edit.task.batch_key}

    def _pack(self) -> Packing:
        packing = Packing(self._limits.rows, self._limits.lane_rows)
        running, driven = self._edits.of("running"), self._lanes.driven()
        is_idle = not running and not driven
        if is_idle or self._batches_without_free_lane >= self._limits.lane_every - 1:
            free = self._next_free_lane()
            if free is not None:
                packing.add([], free)
                if is_idle:
                    packing.extend(free, until=free.task.steps)
                self._batches_without_free_lane = -1
        pack(running, driven, packing)
        if not packing.is_empty:
            self._batches_without_free_lane += 1
        for lane, steps in packing.steps():
            self._waiting.charge(lane.task.tenant, lane.task.rows * len(steps))
        return packing

    def _settle(self, batch: StepBatch, packing: Packing) -> None:
        """Note a batch that comes again, step by step, until an edit comes, goes, or goes on another way."""
        running = self._edits.of("running")
        if (
            not batch.ended
            and not self._has_other_work()
            and not self._edits.of("finished")
            and self._next_to_encode() is None
            and not any(edit.has_refreshes_left for edit in running)
        ):
            self._settled = _Settled(batch, packing, self._edits.changes)

    def _settled_batch(self, now: float) -> StepBatch | None:
        """The last batch once more, where everything else would come to the same; None where it may not."""
        settled = self._settled
        if settled is None or settled.changes != self._edits.changes or self._has_other_work():
            return None
        deadline = self._deadlines.next()
        if deadline is not None and deadline <= now:
            return None
        self._batches_without_free_lane += 1
        self._packing = settled.packing
        return settled.batch

    def _has_other_work(self) -> bool:
        """Whether there is any that is no step of a running edit, and that `EditBook.changes` does not tell of."""
        return bool(self._cancelled or len(self._lanes) or self._lanes.num_waiting or self._stages.has_previews)

    def _next_free_lane(self) -> Lane | None:
        """The lane without edits that goes on. Memory is kept for it from now on; it waits until it is there."""
        lane = self._lanes.next_free()
        if lane is None:
            return None
        lane.holds_memory = True
        is_alone = not self._edits.num_bytes and not self._lanes.has_complete
        return lane if is_alone or self._has_bytes() else None

    def _num_ahead(self) -> int:
        """Edits that were encoded, or are, and wait for their admission."""
        return len(self._edits.of("opening")) + len(self._edits.of("ready"))

    def _next_to_encode(self) -> str | None:
        """The edit whose encoding may begin, by what is encoded already and by its memory."""
        encode = self._waiting.first() if self._num_ahead() < self._limits.encode_ahead else None
        is_alone = not self._edits.num_bytes and not self._lanes.num_bytes
        if encode is not None and not is_alone and not self._has_bytes(self._edits[encode].task.num_bytes):
            return None
        return encode

    def _choose_stage(self, allows: Callable[[StageKind], bool]) -> StageItem | None:
        running, finished = len(self._edits.of("running")), self._edits.of("finished")
        decode, encode = next((edit.task.id for edit in finished), None), self._next_to_encode()
        joins = self._limits.joins == "step" or not running
        has_room = joins and running + self._num_ahead() < self._limits.edits
        stage = self._stages.choose(decode, encode, has_room=has_room, allows=allows)
        if stage is not None and stage.kind == "encode":
            turn = self._waiting.take()
            edit = self._edits[turn.id]
            edit.turn = turn.at
            self._edits.move(edit, "opening")
        elif stage is not None and stage.kind == "decode":
            self._edits.move(self._edits[stage.edit], "decoding")
        return stage
