"""From a checkpoint to what plans its steps on this machine."""

from __future__ import annotations

import logging
from pathlib import Path

from instgenie.checkpoint import Checkpoint
from instgenie.codecs import CodecName
from instgenie.pipeline.cost import SegmentShape
from instgenie.pipeline.guard import PlanGuard
from instgenie.pipeline.known_costs import known_costs
from instgenie.pipeline.probe import UsualEdit
from instgenie.pipeline.step_planner import StepPlanner

log = logging.getLogger(__name__)


def load_planner(checkpoint: Checkpoint, codec: CodecName, folder: Path | None) -> StepPlanner | None:
    """A planner by costs that were kept in the folder or else are measured, which takes a few seconds.

    None where the machine is too busy to tell: steps then take every record, however long that takes.

    Args:
        codec: of the records.
        folder: of costs; None keeps none.
    """
    text_tokens = len(checkpoint.prompts.encode(["an edit"])[0].states)
    edit = UsualEdit(
        checkpoint.settings.canvas_tokens,
        text_tokens,
        codec,
        passes=1 if checkpoint.distilled or checkpoint.settings.guidance == 1 else 2,
    )
    costs = known_costs(checkpoint.forward, checkpoint.revision, edit, folder)
    if not costs.is_trusted:
        log.warning("steps are not planned: costs could not be measured on this machine just now")
        return None
    guard = PlanGuard()
    full = [SegmentShape(text_tokens, edit.canvas_tokens, edit.canvas_tokens)]
    guard.observe_dense(costs.overhead_ms(full) + sum(costs.blocks_ms(full)), costs.fitted_ms(full))
    return StepPlanner(costs, guard=guard)
