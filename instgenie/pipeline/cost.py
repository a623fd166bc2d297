"""What a step's blocks and the loads of their records cost, in milliseconds. Pure: no clock, no device.

Costs are fitted when a model is calibrated, and then follow what is observed: each kind of block, on masked and on all
tokens, and each tier has a factor of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import inf, isfinite
from statistics import fmean, median
from typing import Any, Literal

from instgenie.pipeline.cost_factor import CostFactor
from instgenie_cache import TierName

BlockKind = Literal["double", "single"]
# A worse fit says so little of a block's time that no plan is made from it.
MIN_R_SQUARED = 0.9
_LARGEST_BLOCK_FACTOR = 16.0  # other programs on the same cores were seen to make blocks 5 times as slow
_MOST = 0.5  # of a block's rows
_LARGEST_LOAD_FACTOR = 1000.0  # a disk reads 5 MB a second, or 5 GB


@dataclass(frozen=True, slots=True)
class SegmentShape:
    """What one segment of a packed step computes in a block.

    Attributes:
        active_tokens: image tokens that are computed.
        total_tokens: image tokens that are attended to; those that are not active are context from a record.

    Raises:
        ValueError: a number below 0, or more active tokens than there are.
    """

    text_tokens: int
    active_tokens: int
    total_tokens: int

    def __post_init__(self) -> None:
        if self.text_tokens < 0 or not 0 <= self.active_tokens <= self.total_tokens:
            raise ValueError(f"{self} has not 0 <= active_tokens <= total_tokens and 0 <= text_tokens")

    def in_full(self) -> SegmentShape:
        """The segment with all its image tokens computed."""
        if self.active_tokens == self.total_tokens:
            return self
        return SegmentShape(self.text_tokens, self.total_tokens, self.total_tokens)


def block_features(shapes: Sequence[SegmentShape]) -> tuple[int, int, int, int]:
    """What a block's time is linear in, in the order of `BlockFit`: 1, rows, pairs of query and key, context tokens.

    Linear layers take time by rows, attention by pairs, and context has to be gathered.
    """
    rows = pairs = context = 0
    for shape in shapes:
        own_rows = shape.text_tokens + shape.active_tokens
        rows += own_rows
        pairs += own_rows * (shape.text_tokens + shape.total_tokens)
        context += shape.total_tokens - shape.active_tokens
    return 1, rows, pairs, context


@dataclass(frozen=True, slots=True)
class BlockFit:
    """Milliseconds of a block: a sum over `block_features`.

    Attributes:
        r_squared: of the fit; 0 where too little was measured to say.
        points: shapes that were measured.

    Raises:
        ValueError: a number that is not finite, or a cost below 0.
    """

    base_ms: float
    row_ms: float
    pair_ms: float
    context_ms: float
    r_squared: float
    points: int

    def __post_init__(self) -> None:
        _check(self, signed="r_squared")

    def predict(self, shapes: Sequence[SegmentShape]) -> float:
        """Milliseconds of a block that computes these segments."""
        return self.of(block_features(shapes))

    def of(self, features: tuple[int, int, int, int]) -> float:
        """Milliseconds of a block with these `block_features`."""
        one, rows, pairs, context = features
        return self.base_ms * one + self.row_ms * rows + self.pair_ms * pairs + self.context_ms * context


@dataclass(frozen=True, slots=True)
class LoadFit:
    """Milliseconds of a load, or of decoding.

    Attributes:
        is_measured: False for a guess, which the first observation replaces.

    Raises:
        ValueError: a number below 0 or not finite.
    """

    base_ms: float
    byte_ms: float
    is_measured: bool = True

    def __post_init__(self) -> None:
        _check(self)

    def predict(self, num_bytes: int) -> float:
        """Milliseconds of so many bytes; nothing takes no time."""
        return self.base_ms + self.byte_ms * num_bytes if num_bytes else 0.0


def _check(fit: BlockFit | LoadFit, signed: str = "") -> None:
    for field in fields(fit):
        value = getattr(fit, field.name)
        if not isinstance(value, int | float) or not isfinite(value) or (value < 0 and field.name != signed):
            raise ValueError(f"{field.name} is {value!r}, not a finite number from 0")


FREE = LoadFit(0.0, 0.0)


class CostModel:
    """Milliseconds of blocks and loads. Blocks may be observed by one thread, and loads by another.

    Attributes:
        kinds: of the model's blocks, in block order.
        blocks: what was fitted, by kind.
        overhead: of a forward beside its blocks: embeddings and head.
        loads: of bringing payloads to the device from each tier.
        decode: of payloads, where the loader does it; what blocks decode by themselves is in their own time.
    """

    def __init__(
        self,
        kinds: Sequence[BlockKind],
        blocks: Mapping[BlockKind, BlockFit],
        overhead: BlockFit,
        loads: Mapping[TierName, LoadFit],
        decode: LoadFit = FREE,
    ) -> None:
        """Raises:
        ValueError: a kind has no fit.
        """
        if missing := set(kinds) - set(blocks):
            raise ValueError(f"there are no costs of {', '.join(sorted(missing))} blocks")
        self.kinds, self.blocks, self.overhead = tuple(kinds), dict(blocks), overhead
        self.loads, self.decode = dict(loads), decode
        sides = [(kind, is_full) for kind in blocks for is_full in (False, True)]
        self._block_factors = {side: CostFactor(_LARGEST_BLOCK_FACTOR) for side in sides}
        self._load_factors = {tier: _load_factor(fit) for tier, fit in loads.items()}

    @property
    def r_squared(self) -> dict[BlockKind, float]:
        """How much of the variance of what was measured the fit of each kind explains: 1 is all."""
        return {kind: fit.r_squared for kind, fit in self.blocks.items()}

    @property
    def is_trusted(self) -> bool:
        """Whether plans may be made from these costs: every kind's R^2 is `MIN_R_SQUARED` at least."""
        return all(value >= MIN_R_SQUARED for value in self.r_squared.values())

    def block_ms(self, kind: BlockKind, shapes: Sequence[SegmentShape]) -> float:
        """Milliseconds of a block whose records are on the device."""
        return self._factor(kind, _full_share(shapes)) * self.blocks[kind].predict(shapes)

    def blocks_ms(self, shapes: Sequence[SegmentShape]) -> tuple[float, ...]:
        """Milliseconds of every block, in block order, where each computes these segments."""
        features, full_share = block_features(shapes), _full_share(shapes)
        by_kind = {kind: self._factor(kind, full_share) * fit.of(features) for kind, fit in self.blocks.items()}
        return tuple(by_kind[kind] for kind in self.kinds)

    def overhead_ms(self, shapes: Sequence[SegmentShape]) -> float:
        """Milliseconds of a forward beside its blocks; as much slower or faster than fitted as the first of them is."""
        return self._factor(self.kinds[0], _full_share(shapes)) * self.overhead.predict(shapes)

    def step_ms(self, shapes: Sequence[SegmentShape]) -> float:
        """Milliseconds of a forward whose records are on the device: the sum of `blocks_ms`, and `overhead_ms`."""
        features, full_share = block_features(shapes), _full_share(shapes)
        factors = {kind: self._factor(kind, full_share) for kind in self.blocks}
        by_kind = {kind: factors[kind] * fit.of(features) for kind, fit in self.blocks.items()}
        return sum(by_kind[kind] for kind in self.kinds) + factors[self.kinds[0]] * self.overhead.of(features)

    def fitted_ms(self, shapes: Sequence[SegmentShape]) -> float:
        """Milliseconds of a forward as fitted: what is observed does not change them."""
        features = block_features(shapes)
        by_kind = {kind: fit.of(features) for kind, fit in self.blocks.items()}
        return self.overhead.of(features) + sum(by_kind[kind] for kind in self.kinds)

    def load_ms(self, tier: TierName, num_bytes: int) -> float:
        """Milliseconds of bringing so many bytes of payload from a tier to the device, and decoding them there.

        Raises:
            KeyError: the tier has no costs.
        """
        return self._load_factors[tier].value * self.loads[tier].predict(num_bytes) + self.decode.predict(num_bytes)

    def observe_blocks(
        self, kind: BlockKind, measured: Iterable[tuple[Sequence[SegmentShape], Sequence[float]]]
    ) -> None:
        """Learn from the blocks of one kind in one step.

        A block teaches the factor of those tokens that are most of its rows: the masked segments', or those of segments
        in full. Half of that is believed of the other factor, for a machine with other work is slower at both, and one
        of them may not be run for long; more where the other has a share in the rows, all where it is half of them.

        Args:
            measured: segments, and what each block that computed them took, without waiting for its record.
        """
        stretches = [(_full_share(shapes), self.blocks[kind].predict(shapes), ms) for shapes, ms in measured]
        for is_full in (True, False):
            factor = self._block_factors[kind, is_full]
            ratios, other_shares = [], []
            for full_share, fitted_ms, block_ms in stretches:
                if fitted_ms > 0 and (full_share > _MOST) == is_full:
                    own = factor.value / self._factor(kind, full_share)
                    ratios += [ms / fitted_ms * own for ms in block_ms]
                    other_shares += [1 - full_share if is_full else full_share] * len(block_ms)
            if ratios and 0 < (ratio := median(ratios)) < inf:
                change = factor.observe(ratio)
                self._block_factors[kind, not is_full].nudge(change * (0.5 + fmean(other_shares)))

    def observe_load(self, tier: TierName, num_bytes: int, load_ms: float) -> None:
        """Learn from a load.

        Args:
            load_ms: as `load_ms` says, without waiting for the loader's turn.
        """
        measured_ms = load_ms - self.decode.predict(num_bytes)
        if not (num_bytes > 0 and 0 < measured_ms < inf):
            return
        fitted_ms = self.loads[tier].predict(num_bytes)
        if fitted_ms == 0:  # thought to be free, which no factor mends
            fit = self.loads[tier] = LoadFit(0.0, measured_ms / num_bytes)
            self._load_factors[tier], fitted_ms = _load_factor(fit), measured_ms
        self._load_factors[tier].observe(measured_ms / fitted_ms)

    def to_dict(self) -> dict[str, Any]:
        """What was fitted, as plain data; not the factors, which tell of the machine's other work just now."""
        return {
            "kinds": list(self.kinds),
            "blocks": {kind: asdict(fit) for kind, fit in self.blocks.items()},
            "overhead": asdict(self.overhead),
            "loads": {tier: asdict(fit) for tier, fit in self.loads.items()},
            "decode": asdict(self.decode),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CostModel:
        """The model that `to_dict` was called on.

        Raises:
            ValueError: the content is of another making.
        """
        try:
            return cls(
                content["kinds"],
                {kind: BlockFit(**fit) for kind, fit in content["blocks"].items()},
                BlockFit(**content["overhead"]),
                {tier: LoadFit(**fit) for tier, fit in content["loads"].items()},
                LoadFit(**content["decode"]),
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no costs: {error!r}") from error

    def _factor(self, kind: BlockKind, full_share: float) -> float:
        """Of a block, such a share of whose rows is of segments in full: in between, as the rows are."""
        full, masked = self._block_factors[kind, True].value, self._block_factors[kind, False].value
        return full_share * full + (1 - full_share) * masked


def _full_share(shapes: Sequence[SegmentShape]) -> float:
    """Share of the rows that are of segments in full."""
    rows = in_full = 0
    for shape in shapes:
        own_rows = shape.text_tokens + shape.active_tokens
        rows += own_rows
        if shape.active_tokens == shape.total_tokens:
            in_full += own_rows
    return in_full / rows if rows else 1.0


def _load_factor(fit: LoadFit) -> CostFactor:
    return CostFactor(_LARGEST_LOAD_FACTOR, 1.0 if fit.is_measured else None)
