"""Edits and lanes to schedule, and a replica that does at once what the scheduler says."""

from __future__ import annotations

from typing import Any, get_args

from instgenie.sched.limits import BatchLimits
from instgenie.sched.scheduler import Scheduler
from instgenie.sched.step_batch import Opened, StageKind, StepBatch, StepResult
from instgenie.sched.task import EditTask, LaneTask


def an_edit(edit_id: str, **changes: Any) -> EditTask:
    """An edit of ten rows a step, a hundred in a dense one."""
    task: dict[str, Any] = {
        "tenant": "ann",
        "priority": 0,
        "arrived": 0.0,
        "deadline": None,
        "batch_key": "model",
        "steps": 4,
        "passes": 1,
        "text_tokens": 2,
        "active_tokens": 8,
        "total_tokens": 98,
        "num_bytes": 10,
    }
    return EditTask(id=edit_id, **{**task, **changes})


def a_lane(template: str, **changes: Any) -> LaneTask:
    """A lane of four steps, a hundred rows each."""
    task: dict[str, Any] = {
        "tenant": "ann",
        "arrived": 0.0,
        "batch_key": "model",
        "steps": 4,
        "rows": 100,
        "num_bytes": 50,
        "keeps_steps": True,
    }
    return LaneTask(template=template, **{**task, **changes})


class Desk:
    """Drives a scheduler; edits that are encoded open at once.

    A step takes a second, and so does an item, which is more than its share: there is one between two steps.
    """

    def __init__(self, item_seconds: float = 1.0, **limits: Any) -> None:
        self.scheduler = Scheduler(BatchLimits(**{"encode_ahead": 8, **limits}))
        self.now = 0.0
        self.item_seconds: dict[StageKind, float] = dict.fromkeys(get_args(StageKind), item_seconds)
        self.openings: dict[str, Opened] = {}
        self.batches: list[StepBatch] = []

    def submit(self, *edit_ids: str, **changes: Any) -> None:
        """Edits whose records are there."""
        for edit_id in edit_ids:
            self.scheduler.submit(an_edit(edit_id, **{"arrived": self.now, **changes}))

    def submit_cold(self, *edit_ids: str, lane: LaneTask | None, first_step: int = 0, **changes: Any) -> None:
        """Edits that begin this lane, or join that of template t."""
        for edit_id in edit_ids:
            template = lane.template if lane else "t"
            self.openings[edit_id] = Opened(edit_id, "lane", template, first_step, lane)
            self.submit(edit_id, **changes)

    def turn(self, result: StepResult | None = None) -> StepBatch:
        """Schedule once, and do it."""
        batch = self.scheduler.schedule(self.now)
        self.now += self.item_seconds[batch.stage.kind] if batch.stage else 1.0
        if batch.stage and batch.stage.kind == "encode":
            edit_id = batch.stage.edit
            self.scheduler.opened(self.openings.get(edit_id, Opened(edit_id, "records", "known")))
        if batch.has_step:
            self.scheduler.update(result or StepResult(seconds=1.0))
        self.batches.append(batch)
        return batch

    def turns(self, count: int) -> list[StepBatch]:
        """So many turns."""
        return [self.turn() for _ in range(count)]

    def step(self, result: StepResult | None = None) -> StepBatch:
        """The next step, after the items that go before it."""
        while not (batch := self.turn(result)).has_step:
            assert batch.stage, "there is no step to take"
        return batch

    def steps(self, count: int) -> list[StepBatch]:
        """So many steps."""
        return [self.step() for _ in range(count)]

    def encode(self) -> None:
        """Turns until nothing waits for its encoding."""
        while self.scheduler.counts().waiting:
            assert not self.turn().is_empty

    def recorded(self, template: str) -> list[int]:
        """Steps of the template that were recorded in all turns."""
        return [
            step for batch in self.batches for lane in batch.lanes if lane.template == template for step in lane.steps
        ]


def steps_of(batch: StepBatch, template: str = "t") -> tuple[int, ...]:
    """Steps of a template that the batch records."""
    return next((lane.steps for lane in batch.lanes if lane.template == template), ())


def items_of(batches: list[StepBatch]) -> list[str]:
    """Stage items in their order, as "encode a"."""
    return [f"{batch.stage.kind} {batch.stage.edit}" for batch in batches if batch.stage]


def encoded(batches: list[StepBatch]) -> list[str]:
    """Edits in the order in which they were encoded."""
    return [item.removeprefix("encode ") for item in items_of(batches) if item.startswith("encode ")]
