"""What an edit changes in the tokens that it leaves to its template's records: found at a refresh, used until the next.

Tokens outside the mask attend to the prompt and to what is drawn inside, so in a dense edit their K and V are not quite
their template's. A refresh is a step that computes all tokens. Its K and V of the context, less the record of the same
step, are the *correction*: it is added to the records of the steps that follow. So what changes from step to step is
taken from the records, and what the edit changes from the refresh. Used in place of the records, K and V of a refresh
go stale within a few steps (30 to 40 dB inside the mask where the correction gives 36 to 45, with two refreshes of 20).

Where a template has records of some steps only, a refresh between them is compared with those that stand for its
step, since the steps that follow mostly read the same ones. With drift 0.1 and 0.25 and three refreshes, that gave 52
and 46 dB in the median of five edits of the embedded model; 48 and 43 where such a refresh corrected nothing, and 52
and 43 where it was moved to the nearest step that was kept.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from instgenie.models.segment import ContextSource, KeyValue
from instgenie.step_cache import next_computed

log = logging.getLogger(__name__)

# What a refresh found is believed less with every step after it. Of 1, .95, .9, .85 and .8 the second was best in the
# median of five edits of the embedded model with one refresh of 20 steps: 44.9 dB inside the mask, 42.9 without it.
FADE = 0.95
_MOST = 127  # of int8, either way
_LEAST_SCALE = 2.0**-100  # rows of zeros have one, too


def unused_refreshes(refresh_steps: Collection[int], steps: int, extrapolated: Collection[int] = ()) -> frozenset[int]:
    """Refreshes whose correction no step would add: nothing is computed after them, or another refresh comes next.

    Args:
        extrapolated: steps that are not computed.
    """
    ends = {*refresh_steps, steps}
    return frozenset(step for step in refresh_steps if next_computed(step + 1, extrapolated) in ends)


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What is to be added to K and V of one block, in a byte an element: half the memory of bfloat16.

    A row is one token's head. Of it, no element is off by more than some 1/254 of the largest one. In pictures that is
    nothing: 47.9 dB inside the mask in the median of five edits of the embedded model, with rounding or without.

    Attributes:
        values: of K and of V, [U, H, D] int8 each.
        scales: [U, H, 1] each, in the compute dtype; an element is its row's scale times its value.
    """

    values: tuple[Tensor, ...]
    scales: tuple[Tensor, ...]

    @classmethod
    def of(cls, *parts: Tensor) -> Self:
        """Of K and of V, [U, H, D] each in the compute dtype."""
        scales = tuple((part.abs().amax(-1, keepdim=True) / _MOST).clamp_min(_LEAST_SCALE) for part in parts)
        # In float32: from 64 on, bfloat16 has steps of a half, which would be rounded again.
        rounded = (torch.round(part.float() / scale.float()) for part, scale in zip(parts, scales, strict=True))
        return cls(tuple(values.clamp_(-_MOST, _MOST).to(torch.int8) for values in rounded), scales)

    @property
    def num_bytes(self) -> int:
        """Of memory."""
        return sum(part.nbytes for part in (*self.values, *self.scales))

    def added_to(self, kv: KeyValue, weight: float) -> KeyValue:
        """K and V with so much of it, in memory of their own."""
        parts = zip(kv, self.values, self.scales, strict=True)
        return KeyValue(
            *(torch.addcmul(old, values.to(old.dtype), scale, value=weight) for old, values, scale in parts)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """What a refresh found.

    Attributes:
        step: the edit's own step that it was.
        branches: for each prompt of the edit's guidance, of every block: what is to be added to K and V of the context
            tokens.
    """

    step: int
    branches: Sequence[Sequence[Change]]

    def applied(self, source: ContextSource, step: int) -> list[ContextSource]:
        """The context at a later step, for each prompt.

        Args:
            source: the template's.
        """
        weight = FADE ** (step - self.step)
        return [_Corrected(source, blocks, weight) for blocks in self.branches]


@dataclass(frozen=True, slots=True, eq=False)
class _Corrected:
    """A `ContextSource`."""

    source: ContextSource
    blocks: Sequence[Change]
    weight: float

    def context(self, block: int) -> KeyValue:
        """See `ContextSource`."""
        return self.blocks[block].added_to(self.source.context(block), self.weight)


class Refresh:
    """Takes the correction while a step computes all tokens: one `Recorder` for each prompt.

    Attributes:
        recorders: for the segments of the edit.
    """

    def __init__(self, source: ContextSource, positions: Tensor, prompts: int) -> None:
        """Args:
        source: the template's context at this step.
        positions: [U] the edit's context tokens in raster order, on the model's device.
        """
        self.recorders = [DifferenceRecorder(source, positions) for _ in range(prompts)]

    def correction(self, step: int) -> Correction | None:
        """What was found, once the step is computed; None where there was no memory for it."""
        if any(recorder.is_short for recorder in self.recorders):
            return None
        return Correction(step, [recorder.found for recorder in self.recorders])


class DifferenceRecorder:
    """A `Recorder` of one prompt's pass."""

    def __init__(self, source: ContextSource, positions: Tensor) -> None:
        self._source, self._positions = source, positions
        self.found: list[Change] = []
        self.is_short = False  # of memory

    def record(self, block: int, kv: KeyValue) -> None:
        """See `Recorder`.

        Raises:
            CacheError: the source cannot give the block.
        """
        if self.is_short:
            return
        try:
            own = (part.index_select(0, self._positions) for part in kv)
            # Of two numbers that are alike, the difference is exact in their own dtype.
            found = Change.of(*(new - old for new, old in zip(own, self._source.context(block), strict=True)))
        except torch.OutOfMemoryError as error:
            log.warning("a refresh corrects nothing: there is no memory for what it found: %s", error)
            self.is_short = True
            self.found.clear()
        else:
            self.found.append(found)
