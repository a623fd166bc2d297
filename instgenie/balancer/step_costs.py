"""What a replica's steps and loads cost, as plain numbers that can be sent and put into columns. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import fsum, isfinite
from types import MappingProxyType
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from instgenie.edit_cost import OVERHEAD_TOKENS, EditCost
from instgenie.pipeline.cost import BlockFit, BlockKind, CostModel, SegmentShape, block_features
from instgenie_cache import TierName

_MASKED, _IN_FULL = SegmentShape(0, 1, 2), SegmentShape(0, 1, 1)
_PROBE_BYTES = 1 << 30
_TINY = 1e-300

Seconds = TypeVar("Seconds", float, NDArray[np.float64])


def _check(*seconds: float) -> None:
    for value in seconds:
        if not (isfinite(value) and value >= 0):
            raise ValueError(f"{value} is no number of seconds")


@dataclass(frozen=True, slots=True)
class TokenSeconds:
    """Seconds that a segment adds to a step, over all blocks, by its `block_features` but for the first.

    Raises:
        ValueError: a number below 0 or not finite.
    """

    row: float
    pair: float = 0.0
    context: float = 0.0

    def __post_init__(self) -> None:
        _check(self.row, self.pair, self.context)

    def of(self, shape: SegmentShape) -> float:
        """Of one segment."""
        _, rows, pairs, context = block_features([shape])
        return self.row * rows + self.pair * pairs + self.context * context


@dataclass(frozen=True, slots=True)
class LoadSeconds:
    """Seconds of loading what a step needs: for all its records whatever their size, and for each byte.

    Raises:
        ValueError: a number below 0 or not finite.
    """

    step: float
    byte: float

    def __post_init__(self) -> None:
        _check(self.step, self.byte)

    def of(self, num_bytes: int) -> float:
        """Of so many bytes; nothing takes no time."""
        return self.step + self.byte * num_bytes if num_bytes else 0.0


FREE = LoadSeconds(0.0, 0.0)
# Where nothing was measured: a bus, a disk, a network.
GUESSED_LOADS: Mapping[TierName, LoadSeconds] = MappingProxyType(
    {"host": LoadSeconds(0.0, 1e-10), "disk": LoadSeconds(0.0, 1e-9), "object": LoadSeconds(0.0, 1e-8)}
)


@dataclass(frozen=True, slots=True)
class StepCosts:
    """What steps take on a replica. A step takes its base, and what each of its segments adds.

    Attributes:
        base_seconds: of a step, whatever it computes.
        masked, full: what segments add that compute some tokens, and all of them.
        loads: by tier; a tier that is missing takes no time.
        edge_seconds: of an edit, beside its steps: encoding and decoding.

    Raises:
        ValueError: a number below 0 or not finite.
    """

    base_seconds: float
    masked: TokenSeconds
    full: TokenSeconds
    loads: Mapping[TierName, LoadSeconds]
    edge_seconds: float = 0.0

    def __post_init__(self) -> None:
        _check(self.base_seconds, self.edge_seconds)

    @classmethod
    def from_edit_cost(
        cls, cost: EditCost, loads: Mapping[TierName, LoadSeconds] = GUESSED_LOADS, edge_seconds: float = 0.0
    ) -> Self:
        """Costs in proportion to tokens. Passes of a step share the overhead, those of a batch too."""
        tokens = TokenSeconds(cost.seconds_per_token)
        return cls(OVERHEAD_TOKENS * cost.seconds_per_token, tokens, tokens, loads, edge_seconds)

    @classmethod
    def from_cost_model(cls, model: CostModel, edge_seconds: float = 0.0) -> Self:
        """What a replica has measured, with what it has learnt since.

        The model's factors of masked and of full blocks are blended by rows; here each segment has its own.
        """
        base, masked = _over_blocks(model, _MASKED)
        _, full = _over_blocks(model, _IN_FULL)
        loads = {tier: _load_seconds(model, tier) for tier in model.loads}
        return cls(base, masked, full, loads, edge_seconds)

    def slower(self, factor: float, base_factor: float | None = None) -> Self:
        """Steps that take so many times as long; loads, encoding and decoding as before.

        Args:
            base_factor: of what a step takes whatever it computes; None is the same.
        """

        def tokens(seconds: TokenSeconds) -> TokenSeconds:
            return TokenSeconds(factor * seconds.row, factor * seconds.pair, factor * seconds.context)

        base = self.base_seconds * (factor if base_factor is None else base_factor)
        return replace(self, base_seconds=base, masked=tokens(self.masked), full=tokens(self.full))

    def segment_seconds(self, shape: SegmentShape) -> float:
        """What a segment adds to a step."""
        return (self.full if shape.active_tokens == shape.total_tokens else self.masked).of(shape)


def planned_seconds(masked: Seconds, more_in_full: Seconds, load: Seconds) -> Seconds:
    """What a planned step takes: the best full prefix of many equal blocks.

    With a share x of the blocks masked the step takes `max(masked + (1 - x) * more_in_full, x * load)`. Loads that
    compute hides cost nothing, and none costs more than the dense step.

    Args:
        masked: of the whole batch's step, with its records there.
        more_in_full: that all tokens of the edit take more; not below 0.
        load: of all its records.
    """
    stall = np.maximum(0.0, load - masked)
    planned: Seconds = masked + more_in_full * (stall / (load + more_in_full + _TINY))
    return planned


def _over_blocks(model: CostModel, kind_of_segment: SegmentShape) -> tuple[float, TokenSeconds]:
    """A step's base, and what a segment of this kind adds; the head is as much slower as the first block."""
    factors = {kind: _factor(model, kind, kind_of_segment) for kind in model.blocks}
    parts = [(count * factors[kind], model.blocks[kind]) for kind, count in Counter(model.kinds).items()]
    parts.append((factors[model.kinds[0]], model.overhead))
    base, row, pair, context = (
        fsum(factor * cost for factor, cost in zip((factor for factor, _ in parts), costs, strict=True)) / 1000
        for costs in zip(*((fit.base_ms, fit.row_ms, fit.pair_ms, fit.context_ms) for _, fit in parts), strict=True)
    )
    return base, TokenSeconds(row, pair, context)


def _factor(model: CostModel, kind: BlockKind, shape: SegmentShape) -> float:
    fit: BlockFit = model.blocks[kind]
    fitted_ms = fit.predict([shape])
    return model.block_ms(kind, [shape]) / fitted_ms if fitted_ms > 0 else 1.0


def _load_seconds(model: CostModel, tier: TierName) -> LoadSeconds:
    """A step's records are as many as blocks."""
    once, twice = (model.load_ms(tier, count * _PROBE_BYTES) / 1000 for count in (1, 2))
    return LoadSeconds(max(0.0, 2 * once - twice) * len(model.kinds), (twice - once) / _PROBE_BYTES)
