"""What edits of a replica took, by which others are predicted."""

from __future__ import annotations

from instgenie.balancer.step_costs import StepCosts
from instgenie.edit_cost import EditCost, EditWork
from instgenie.pipeline.cost import CostModel
from instgenie.running_edit import RunningEdit

_SHARE_OF_NEWEST = 0.2


class LearnedCosts:
    """Follows what is observed. One thread observes, any may ask.

    Attributes:
        edit_cost: seconds by image tokens, for edits of which no more is known.
    """

    def __init__(self) -> None:
        self.edit_cost = EditCost(share_of_newest=_SHARE_OF_NEWEST)
        self._row_cost = EditCost(share_of_newest=_SHARE_OF_NEWEST)  # by rows, text among them, and steps
        self._edge_seconds: float | None = None

    def observe(self, edit: RunningEdit) -> None:
        """Learn from an edit that was decoded."""
        timings, passes = edit.timings, edit.passes
        masked_steps = edit.steps - timings.dense_steps
        tokens = passes * (masked_steps * timings.tokens_active + timings.dense_steps * timings.tokens_total)
        text_rows = edit.steps * sum(shape.text_tokens for shape in edit.shapes(is_dense=True))
        edge_seconds = (timings.encode_ms + timings.decode_ms) / 1000
        seconds = edit.device_ms / 1000 + edge_seconds
        self.edit_cost.observe(EditWork(passes * edit.steps, tokens), seconds)
        self._row_cost.observe(EditWork(edit.steps, tokens + text_rows), seconds)
        if self._edge_seconds is None:
            self._edge_seconds = edge_seconds
        else:
            self._edge_seconds += _SHARE_OF_NEWEST * (edge_seconds - self._edge_seconds)

    def step_costs(self, model: CostModel | None) -> StepCosts:
        """What steps take: by a model that was calibrated, else in proportion to their tokens."""
        if model is None:  # what was observed has encoding and decoding in it
            return StepCosts.from_edit_cost(self._row_cost)
        return StepCosts.from_cost_model(model, self._edge_seconds or 0.0)
