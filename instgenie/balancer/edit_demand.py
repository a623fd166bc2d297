"""What an edit will ask of whichever replica it goes to."""

from __future__ import annotations

from dataclasses import dataclass

from instgenie.orders import CachePolicy
from instgenie.pipeline.cost import SegmentShape


@dataclass(frozen=True, slots=True, kw_only=True)
class EditDemand:
    """One edit, without its pixels.

    Attributes:
        template: a name for its template: the key, or what else tells templates apart and is used in all events.
        steps: to compute in all, where its template is warm.
        passes: of the model, each step.
        text_tokens: of each pass; 0 where costs do not count them.
        active_tokens: image tokens of each pass in a masked step.
        total_tokens: image tokens of each pass in a dense one.
        step_bytes: of the records that a step needs; 0 where that is not known, as if loads took no time.
        cache: of the order.
        extrapolated: of its own steps, those that are taken without being computed.

    Raises:
        ValueError: no steps, passes or tokens, more active tokens than there are, or bytes below 0.
    """

    id: str
    template: str
    steps: int
    passes: int
    text_tokens: int
    active_tokens: int
    total_tokens: int
    step_bytes: int = 0
    cache: CachePolicy = "auto"
    extrapolated: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if min(self.steps, self.passes, self.text_tokens + self.total_tokens) < 1 or self.step_bytes < 0:
            raise ValueError(f"{self} asks for nothing")
        _ = self.segment

    def computed(self, taken: int) -> int:
        """Of so many steps that were taken, those that were computed."""
        return taken - sum(step < taken for step in self.extrapolated)

    @property
    def lane_steps(self) -> float:
        """Of its template's lane, beside one that it computes: extrapolated steps are recorded all the same."""
        return 1 + len(self.extrapolated) / self.steps

    @property
    def segment(self) -> SegmentShape:
        """What a pass computes in a masked step."""
        return SegmentShape(self.text_tokens, self.active_tokens, self.total_tokens)
