"""A simulated replica: a real scheduler, and what its steps and stages would take."""

from __future__ import annotations

from dataclasses import dataclass

from instgenie.sched.edit_book import Counts
from instgenie.sched.scheduler import Scheduler
from instgenie.sched.step_batch import Opened, StepBatch, StepResult
from instgenie.sched.task import LaneTask
from instgenie.sim.machine import Machine, TemplateRecords
from instgenie.sim.pace import STEADY, Pace
from instgenie.sim.sim_edit import Served, SimEdit
from instgenie.sim.sim_model import SimModel
from instgenie.sim.step_time import Reading, StepTime, step_time
from instgenie.sim.template_cache import TemplateCache


@dataclass(frozen=True, slots=True)
class Turn:
    """What a replica did from one `begin` to its `end`.

    Attributes:
        reported: edits that were encoded, or took a step.
        decoded: edit that left the device.
    """

    reported: tuple[SimEdit, ...] = ()
    decoded: SimEdit | None = None


@dataclass(slots=True)
class _Lane:
    """A template that is recorded here, and how many of its steps were."""

    template: TemplateRecords
    steps: int = 0


class SimReplica:
    """Does what `BatchRunner` does, one turn after the other: a piece of stage work, or a step.

    Attributes:
        device: templates that are on its device.
        pace: by which all that it does takes longer than costs say.
        busy_seconds: of steps and stages, so far.
        steps: so far; edit_steps: of single edits.
        tokens: that the last step computed.
    """

    def __init__(
        self, name: str, model: SimModel, machine: Machine, device: TemplateCache, pace: Pace = STEADY
    ) -> None:
        self.name, self.machine, self.device, self.pace = name, machine, device, pace
        self.busy_seconds = 0.0
        self.steps = self.edit_steps = self.tokens = 0
        self._model = model
        self._scheduler = Scheduler(model.limits)
        self._edits: dict[str, SimEdit] = {}
        self._lanes: dict[str, _Lane] = {}
        self._batch: StepBatch | None = None
        self._seconds = 0.0  # of what is done now
        self._idle_loader = 0.0  # seconds of the last step
        self._loaded_last: frozenset[str] = frozenset()  # edits whose next records were asked for in it
        self._last_step: tuple[float, tuple[Reading, ...], StepTime] | None = None
        self._same_step: tuple[StepBatch, float] | None = None  # a batch whose every step takes so long

    @property
    def is_idle(self) -> bool:
        """Whether it does nothing: `begin` is to be called when something comes."""
        return self._batch is None

    def counts(self) -> Counts:
        """Edits by phase."""
        return self._scheduler.counts()

    def submit(self, edit: SimEdit, now: float) -> None:
        """Take an edit."""
        self._edits[edit.id] = edit
        if edit.demand.cache != "off":
            self.machine.prefetch(edit.template, now)
        self._scheduler.submit(edit.task)

    def begin(self, now: float) -> float | None:
        """Begin a turn; the seconds that it takes, None where there is nothing to do."""
        assert self._batch is None
        batch = self._scheduler.schedule(now)
        if batch.is_empty:
            return None
        self._batch = batch
        if batch.stage is not None:
            share = self._model.encode_share
            self._seconds = self._model.costs.edge_seconds * (share if batch.stage.kind == "encode" else 1 - share)
        else:
            self._seconds = self._step_seconds(batch, now)
        self._seconds *= self.pace.at(now)
        self.busy_seconds += self._seconds
        return self._seconds

    def end(self, now: float) -> Turn:
        """The turn is over."""
        batch, self._batch = self._batch, None
        assert batch is not None
        if batch.stage is None:
            return self._end_step(batch, now)
        edit = self._edits[batch.stage.edit]
        if batch.stage.kind == "encode":
            edit.encoded = now
            self._open(edit, now)
            return Turn((edit,))
        del self._edits[edit.id]
        self._scheduler.drop(edit.id)
        return Turn(decoded=edit)

    # Templates.

    def _open(self, edit: SimEdit, now: float) -> None:
        """Find what serves an edit that was encoded, as `LaneDesk` does."""
        template, lane = edit.template, None
        if edit.demand.cache == "off":
            edit.served = "full_mask"
        elif template.name in self._lanes:
            edit.served, edit.route = "joined", "lane"
        elif self.machine.holds(template.name):
            self._read(edit, now)
        elif self.machine.begin_record(template):
            edit.served, edit.route = "recorded", "lane"
            self._lanes[template.name] = _Lane(template)
            lane = self._lane_task(template, now)
        else:
            edit.served = "dense"
        self._scheduler.opened(Opened(edit.id, edit.route, template.name, 0, lane))

    def _read(self, edit: SimEdit, now: float) -> None:
        edit.route = "records"
        edit.use = self.machine.open(edit.template, now)
        edit.is_on_device = edit.template.name in self.device
        served: Served = "host" if edit.use.coming is None else "disk"
        if edit.is_on_device:
            self.device.use(edit.template.name)
            served = "device"
        edit.served = edit.served or served

    def _close(self, edit: SimEdit) -> None:
        """It has taken its steps: what it brought to the device stays there, as long as there is room."""
        if edit.use is None:
            return
        name = edit.template.name
        self.machine.close(edit.template, edit.use)
        if edit.is_on_device:
            self.device.leave(name)
        else:
            cost_ms = 1000 * edit.template.steps * self._model.host_load_seconds
            self.device.insert(name, edit.template.num_bytes, cost_ms)

    def _lane_task(self, template: TemplateRecords, now: float) -> LaneTask:
        model = self._model
        return LaneTask(
            template=template.name,
            tenant="",
            arrived=now,
            batch_key="",
            steps=template.steps,
            rows=model.text_tokens + model.canvas_tokens,
            num_bytes=1,
            keeps_steps=model.keeps_lane_steps,
        )

    # Steps.

    def _end_step(self, batch: StepBatch, now: float) -> Turn:
        self._scheduler.update(StepResult(seconds=self._seconds))
        self.steps += 1
        self.edit_steps += len(batch.edits)
        self.tokens = batch.rows
        edits = tuple(self._edits[edit_id] for edit_id in batch.edits)
        for edit in edits:
            edit.taken += 1
            if edit.is_done:
                edit.stepped = now
                self._close(edit)
        for steps in batch.lanes:
            lane = self._lanes[steps.template]
            lane.steps += len(steps.steps)
            if lane.steps == lane.template.steps:
                self._commit(lane.template, now)
        return Turn(edits)

    def _commit(self, template: TemplateRecords, now: float) -> None:
        """A lane is complete. Edits that are behind it go on with what it kept, or with its records."""
        del self._lanes[template.name]
        self.machine.recorded(template)
        for edit in self._edits.values():
            if edit.template.name == template.name and edit.route == "lane" and not edit.is_done:
                if self._model.keeps_lane_steps:
                    edit.route = "records"
                else:
                    self._read(edit, now)
        self._scheduler.committed(template.name)

    def _step_seconds(self, batch: StepBatch, now: float) -> float:
        """Seconds; where the scheduler has a batch come again, once loads go on evenly all of its steps are alike."""
        if self._same_step is not None and self._same_step[0] is batch:
            return self._same_step[1]
        loader = self._idle_loader, self._loaded_last
        seconds, is_late = self._planned_seconds(batch, now)
        is_even = not is_late and loader == (self._idle_loader, self._loaded_last)
        self._same_step = (batch, seconds) if is_even else None
        return seconds

    def _planned_seconds(self, batch: StepBatch, now: float) -> tuple[float, bool]:
        """A step's seconds, and whether any of its records still come from the disk."""
        seconds = self._model.costs.base_seconds
        readings: list[Reading] = []
        loading: list[str] = []
        for edit_id in batch.edits:
            edit = self._edits[edit_id]
            seconds += edit.full_seconds if edit.route == "dense" else edit.masked_seconds
            if edit.use is not None and not edit.is_on_device:
                readings.append(self._reading(edit, now))
                loading.append(edit_id)
        for lane in batch.lanes:
            seconds += len(lane.steps) * self._model.lane_seconds
        if not readings:
            self._idle_loader, self._loaded_last = 0.0, frozenset()
            return seconds, False
        key = tuple(readings)
        if self._last_step is None or self._last_step[:2] != (seconds, key):
            self._last_step = seconds, key, step_time(seconds, readings, self._model.blocks)
        step = self._last_step[2]
        most = self._model.ahead_bytes / max(1, self._model.step_bytes) * self._model.host_load_seconds
        self._idle_loader, self._loaded_last = min(most, step.seconds - step.loading), frozenset(loading)
        return step.seconds, any(self._is_coming(self._edits[edit_id], now) for edit_id in loading)

    @staticmethod
    def _is_coming(edit: SimEdit, now: float) -> bool:
        coming = edit.use.coming if edit.use is not None else None
        return coming is not None and coming.ends > now

    def _reading(self, edit: SimEdit, now: float) -> Reading:
        """How an edit's records for its next step come: some were loaded while the last step was computed."""
        model = self._model
        load, after = model.host_load_seconds, 0.0
        coming = edit.use.coming if edit.use is not None else None
        if coming is not None and coming.ends > now:
            begins = coming.begins + edit.taken * coming.step_seconds
            after = max(0.0, begins - now)
            load = max(load, min(coming.step_seconds, begins + coming.step_seconds - now))
        ahead = 0
        if edit.id in self._loaded_last and not after and load > 0:
            seconds = min(load, self._idle_loader)
            self._idle_loader -= seconds
            ahead = int(seconds / load * model.blocks)
        return Reading(max(0.0, edit.full_seconds - edit.masked_seconds), load, ahead, after)
