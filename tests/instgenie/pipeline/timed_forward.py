"""A model that takes the time that it is told to take, by a clock of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from instgenie.models.flux import FluxForward
from instgenie.models.segment import Segment
from instgenie.pipeline.cost import BlockFit, SegmentShape
from tests.instgenie.tiny_flux import tiny_forward

DOUBLE = BlockFit(1.4, 0.01, 7e-6, 6e-4, 1.0, 0)
SINGLE = BlockFit(0.6, 0.008, 7e-6, 5e-4, 1.0, 0)
BEFORE = BlockFit(1.0, 2e-3, 0, 0, 1.0, 0)
AFTER_MS = 0.2


class TimedForward(FluxForward):
    """Two double blocks and two single ones that compute nothing.

    Attributes:
        now: the clock, in seconds.
        passes: shapes of each pass so far.
        slowness: of a pass, by its number: times how much it takes.
    """

    def __init__(self, slowness: Callable[[int], float] = lambda _: 1.0) -> None:
        super().__init__(tiny_forward().transformer)
        self.now = 0.0
        self.passes: list[list[SegmentShape]] = []
        self.slowness = slowness

    def __call__(self, segments: Sequence[Segment], on_block: Callable[[int], None] = lambda _: None) -> list[Tensor]:
        """See `FluxForward`."""
        shapes = [_shape(segment) for segment in segments]
        factor = self.slowness(len(self.passes)) / 1000
        self.passes.append(shapes)
        self.now += factor * BEFORE.predict(shapes)
        for block in range(self.num_blocks):
            self.now += factor * (DOUBLE if block < self.num_double else SINGLE).predict(shapes)
            on_block(block)
        self.now += factor * AFTER_MS
        return []


def _shape(segment: Segment) -> SegmentShape:
    context = 0 if segment.context is None else len(segment.context.context(0).key)
    return SegmentShape(len(segment.text), len(segment.tokens), len(segment.tokens) + context)
