"""One denoising step of a batch: edits of any template, mask, prompt and progress, and lanes, in one forward."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from instgenie.edit_state import advance
from instgenie.edit_step import EditStep
from instgenie.host import await_device
from instgenie.lane import Lane
from instgenie.models.flux import FluxForward
from instgenie.models.segment import Segment
from instgenie.pipeline.cost import SegmentShape
from instgenie.pipeline.marks import Marks, marks_on
from instgenie.pipeline.step_planner import StepPlanner
from instgenie.tracing import current_tracer
from instgenie_cache import CacheError

if TYPE_CHECKING:
    from instgenie.running_edit import RunningEdit

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LaneStep:
    """A step of a template that is recorded in the batch."""

    lane: Lane
    step: int


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What a step of a batch took.

    Attributes:
        ms: from its start to its end.
        stall_ms: of it, waiting for records.
        stuck: edits that took no step: what they computed with was not their template's any more.
    """

    ms: float
    stall_ms: float
    stuck: frozenset[RunningEdit]


def run_step(
    forward: FluxForward,
    edits: Sequence[RunningEdit],
    lanes: Sequence[LaneStep] = (),
    planner: StepPlanner | None = None,
) -> BatchOutcome:
    """Take one step of every edit, and record one of every lane, in one forward.

    An edit whose records fail on the way computes all of its tokens at this step, and the others begin it anew.

    Args:
        lanes: those of edits that ride with them, too. A lane may have several steps.
        planner: learns from the step, and plans the next ones; None plans nothing.
    """
    started, tracer = time.perf_counter(), current_tracer()
    dense: frozenset[RunningEdit] = frozenset()
    while True:
        with tracer.span("assemble"):
            segments = [entry.lane.segment(entry.step) for entry in lanes]  # first: edits read what they record
            steps = _open(edits, dense)
        marks = None if planner is None or lanes else marks_on(forward.device)
        try:
            names = " ".join(edit.name for edit in edits) if tracer.is_on else ""
            with tracer.span("compute", edits=len(edits), lanes=len(segments), names=names):
                _compute(forward, edits, steps, segments, marks)
            served = [edit.keep_step(step) for edit, step in zip(edits, steps, strict=True)]
            break
        except CacheError:
            failed = frozenset(edit for edit, step in zip(edits, steps, strict=True) if step.error is not None)
            for edit, step in zip(edits, steps, strict=True):
                edit.abandon_step(step)
            if not failed:
                raise
            dense |= failed
        except BaseException:
            for edit, step in zip(edits, steps, strict=True):
                edit.abandon_step(step)
            raise
    part_ms = [] if marks is None else marks.intervals_ms()
    await_device(forward.device)  # the scheduler goes by what steps take
    ms = 1000 * (time.perf_counter() - started)
    if planner is not None and not lanes:  # whose records take time, too
        _learn(planner, edits, steps, part_ms)
    rows = [edit.rows(step) for edit, step in zip(edits, steps, strict=True)]
    lane_rows = [len(segment.tokens) + len(segment.text) for segment in segments]
    all_rows = sum(rows) + sum(lane_rows)
    for edit, step, own_rows in zip(edits, steps, rows, strict=True):
        edit.end_step(step, ms, len(edits), own_rows / all_rows)
    for entry, own_rows in zip(lanes, lane_rows, strict=True):
        entry.lane.finish_step(entry.step, ms * own_rows / all_rows)
    stuck = frozenset(edit for edit, is_served in zip(edits, served, strict=True) if not is_served)
    return BatchOutcome(ms, sum(step.stall_ms for step in steps), stuck)


def _open(edits: Sequence[RunningEdit], dense: frozenset[RunningEdit]) -> list[EditStep]:
    """Each edit's part. What is planned for one of them counts on what the others compute besides."""
    shapes = [edit.shapes(is_dense=edit in dense) for edit in edits]
    steps: list[EditStep] = []
    try:
        for number, edit in enumerate(edits):
            beside = [shape for other, parts in enumerate(shapes) if other != number for shape in parts]
            steps.append(edit.open_step(beside, is_dense=edit in dense))
    except BaseException:
        for edit, step in zip(edits, steps, strict=False):
            edit.abandon_step(step)
        raise
    return steps


def _compute(
    forward: FluxForward,
    edits: Sequence[RunningEdit],
    steps: Sequence[EditStep],
    lanes: Sequence[Segment],
    marks: Marks | None,
) -> None:
    def on_block(block: int) -> None:
        if marks is not None:
            marks.add()
        for step in steps:
            if step.opened is not None:
                step.opened.computed(block)

    if marks is not None:
        marks.add()
    contexts, full_blocks = [step.context for step in steps], [step.full_blocks for step in steps]
    refreshes = [step.refresh for step in steps]
    advance(forward, [edit.state for edit in edits], contexts, full_blocks, on_block, lanes, refreshes)
    if marks is not None:
        marks.add()


def _learn(
    planner: StepPlanner,
    edits: Sequence[RunningEdit],
    steps: Sequence[EditStep],
    part_ms: Sequence[float],
) -> None:
    """Teach the planner what the step took. No edit needs that."""
    blocks = len(part_ms) - 1
    segments: list[tuple[SegmentShape, int]] = []
    stalls_ms: dict[int, float] = {}
    predicted_ms, waited_ms = None, 0.0
    for edit, step in zip(edits, steps, strict=True):
        full_blocks = step.full_blocks if step.context is not None else blocks
        segments += [(shape, full_blocks) for shape in edit.masked_shapes]
        if step.opened is not None:
            waited_ms += step.opened.waited_ms
            for block, stall_ms in step.opened.stalls_ms.items():
                stalls_ms[block] = stalls_ms.get(block, 0.0) + stall_ms
            if step.opened.plan is not None:
                predicted_ms = step.opened.plan.step_ms  # of the last one, who knew what the others compute
    try:
        planner.observe_step(segments, predicted_ms, part_ms, stalls_ms, waited_ms)
        compute_ms = sum(part_ms) - sum(stalls_ms.values())
        for edit, step in zip(edits, steps, strict=True):
            edit.learn_from(step, compute_ms, sum(part_ms) + waited_ms)
    except Exception:
        log.exception("costs do not follow what a step took")
