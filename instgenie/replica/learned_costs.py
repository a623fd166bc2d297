"""What edits of a replica took, by which others are predicted."""

from __future__ import annotations

from collections.abc import Sequence

from instgenie.balancer.step_costs import StepCosts
from instgenie.batch_step import BatchOutcome
from instgenie.edit_cost import EditCost, EditWork
from instgenie.pipeline.cost import CostModel
from instgenie.replica.step_correction import ExpectedStep, StepCorrection
from instgenie.running_edit import RunningEdit

_SHARE_OF_NEWEST = 0.2


def expected_step(model: CostModel | None, edits: Sequence[RunningEdit]) -> ExpectedStep | None:
    """What the edits' next step takes by calibrated costs, with the records there; None without such costs."""
    if model is None or not edits:
        return None
    costs = StepCosts.from_cost_model(model)
    added = sum(costs.segment_seconds(shape) for edit in edits for shape in edit.shapes(is_dense=False))
    seconds = costs.base_seconds + added
    return ExpectedStep(costs.base_seconds, seconds) if seconds > 0 else None


class LearnedCosts:
    """Follows what is observed. One thread observes, any may ask.

    Attributes:
        edit_cost: seconds by image tokens, for edits of which no more is known.
    """

    def __init__(self) -> None:
        self.edit_cost = EditCost(share_of_newest=_SHARE_OF_NEWEST)
        self._row_cost = EditCost(share_of_newest=_SHARE_OF_NEWEST)  # by rows, text among them, and steps
        self._edge_seconds: float | None = None
        self._correction = StepCorrection()

    def observe_step(self, edits: Sequence[RunningEdit], expected: ExpectedStep | None, outcome: BatchOutcome) -> None:
        """Learn from a step of edits alone that all of them took, without waiting for records.

        Args:
            expected: `expected_step` before it; None teaches nothing.
        """
        plans = [edit.taken[-1].plan for edit in edits if edit.taken]
        if expected is None or outcome.stuck or any(plan is not None and plan.full_prefix for plan in plans):
            return  # or it has computed more than was expected
        self._correction.observe(expected, (outcome.ms - outcome.stall_ms) / 1000)

    def observe(self, edit: RunningEdit) -> None:
        """Learn from an edit that was decoded."""
        timings, passes = edit.timings, edit.passes
        computed = edit.steps - timings.extrapolated_steps
        masked_steps = computed - timings.dense_steps
        tokens = passes * (masked_steps * timings.tokens_active + timings.dense_steps * timings.tokens_total)
        text_rows = computed * sum(shape.text_tokens for shape in edit.shapes(is_dense=True))
        edge_seconds = (timings.encode_ms + timings.decode_ms) / 1000
        seconds = edit.device_ms / 1000 + edge_seconds
        self.edit_cost.observe(EditWork(passes * computed, tokens), seconds)
        self._row_cost.observe(EditWork(computed, tokens + text_rows), seconds)
        if self._edge_seconds is None:
            self._edge_seconds = edge_seconds
        else:
            self._edge_seconds += _SHARE_OF_NEWEST * (edge_seconds - self._edge_seconds)

    def step_costs(self, model: CostModel | None) -> StepCosts:
        """What steps take: by a model that was calibrated, else in proportion to their tokens."""
        if model is None:  # what was observed has encoding and decoding in it
            return StepCosts.from_edit_cost(self._row_cost)
        base_factor, factor = self._correction.factors()
        return StepCosts.from_cost_model(model, self._edge_seconds or 0.0).slower(factor, base_factor)
