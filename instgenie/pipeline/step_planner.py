"""Plans a replica's steps: what is to be loaded from where, priced by the cost model, which learns from every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from instgenie.pipeline.cost import CostModel, SegmentShape
from instgenie.pipeline.guard import PlanGuard
from instgenie.pipeline.planner import BlockCosts, LoaderState, StepPlan
from instgenie.pipeline.policies import PlanPolicy, dense, full_prefix
from instgenie.pipeline.step_source import Loaded
from instgenie.pipeline.timeline import timeline
from instgenie_cache import TierName

_FASTEST_BYTES_PER_MS = 16_000_000  # of a disk; what comes faster was in memory by then


@dataclass(frozen=True, slots=True)
class StepSupply:
    """Where the records of a step are, and what they take.

    Attributes:
        tiers: that each block's record has to come from; None where it is on the device.
        record_bytes: of one payload.
        buffer_bytes: that one takes on the device; 0 where it is used where it is.
        queued: bytes by tier that the loader has to read before.
        budget_bytes: of the loader's buffers, for this step.
    """

    tiers: Sequence[TierName | None]
    record_bytes: int
    buffer_bytes: int
    queued: Mapping[TierName, int]
    budget_bytes: int


class StepPlanner:
    """Chooses each step's full prefix. Steps are observed by the thread that computes, loads by the loader's."""

    def __init__(self, costs: CostModel, policy: PlanPolicy = full_prefix, guard: PlanGuard | None = None) -> None:
        """Args:
        guard: has steps computed densely while plans turn out slower; None never does.
        """
        self.costs, self._policy, self._guard = costs, policy, guard

    def plan(
        self,
        shapes: Sequence[SegmentShape],
        supply: StepSupply,
        *,
        takes_all: bool = False,
        beside: Sequence[SegmentShape] = (),
    ) -> StepPlan:
        """How to run an edit's step: its full prefix, and what the whole batch's step then takes.

        Args:
            shapes: the edit's segments, with their active tokens.
            takes_all: take every record, however long that takes.
            beside: the other segments of the batch, as they will be computed.
        """
        computed = [*shapes, *beside]
        load_ms = self._load_ms(supply)
        if self._policy is full_prefix and not any(load_ms):
            # Nothing is waited for. No block in full then, whatever costs say: what a plan computes on all tokens shows
            # in the picture, and the same request shall give the same one.
            return StepPlan(0, self.costs.step_ms(computed), 0.0)
        costs = BlockCosts(
            masked_ms=self.costs.blocks_ms(computed),
            full_ms=self.costs.blocks_ms([*(shape.in_full() for shape in shapes), *beside]),
            load_ms=load_ms,
            load_bytes=(supply.buffer_bytes,) * len(supply.tiers),
        )
        busy_ms = sum(self.costs.load_ms(tier, num_bytes) for tier, num_bytes in supply.queued.items())
        loader = LoaderState(busy_ms, supply.budget_bytes if supply.buffer_bytes else None)
        full_blocks = 0 if takes_all else self._full_blocks(costs, loader)
        times = timeline(costs, loader, [block < full_blocks for block in range(len(costs))])
        return StepPlan(full_blocks, times.step_ms + self.costs.overhead_ms(computed), times.stall_ms)

    def _full_blocks(self, costs: BlockCosts, loader: LoaderState) -> int:
        """How many blocks to run in full: the first ones, which is no later than the same number elsewhere."""
        may_plan = self._guard is None or self._guard.follows_plan
        return sum((self._policy if may_plan else dense)(costs, loader))

    def loads_hide(self, shapes: Sequence[SegmentShape], tier: TierName, step_bytes: int) -> bool:
        """Whether a whole step is loaded from a tier in less time than a masked step takes."""
        return self.costs.load_ms(tier, step_bytes) <= sum(self.costs.blocks_ms(shapes))

    def observe_load(self, loaded: Loaded) -> None:
        """Learn from a load, but for one that is too fast to have come from where it was thought to be."""
        if loaded.tier != "host" and loaded.num_bytes > _FASTEST_BYTES_PER_MS * loaded.ms:
            return
        self.costs.observe_load(loaded.tier, loaded.num_bytes, loaded.ms)

    def observe_step(
        self,
        segments: Sequence[tuple[SegmentShape, int]],
        predicted_ms: float | None,
        part_ms: Sequence[float],
        stalls_ms: Mapping[int, float],
        waited_ms: float = 0.0,
    ) -> None:
        """Learn from a batch's step.

        What blocks took teaches costs, whoever decided what they compute; nothing else may have been in their time,
        such as encoding a template lane's records and waiting for a store to take them. The guard is told of steps that
        were planned, and of those that were dense anyway, which say what it compares others with.

        Args:
            segments: all of the batch, each with its full prefix; that of dense edits and template lanes is all blocks.
            predicted_ms: by the plan that was made last; None where nothing was planned.
            part_ms: of each block, waiting for records included, and of the head.
            stalls_ms: of it, waiting, by block.
            waited_ms: before the first block.
        """
        blocks = len(self.costs.kinds)
        if self._guard is not None:
            step_ms = sum(part_ms) + waited_ms
            dense_fitted_ms = self.costs.fitted_ms([shape.in_full() for shape, _ in segments])
            if all(prefix >= blocks or shape.active_tokens == shape.total_tokens for shape, prefix in segments):
                self._guard.observe_dense(step_ms, dense_fitted_ms)
            elif predicted_ms is not None:
                self._guard.observe_plan(step_ms, predicted_ms, dense_fitted_ms)
        # The first block is measured with what is before it.
        ends = sorted({1, blocks, *(prefix for _, prefix in segments if 1 < prefix < blocks)})
        stretches = [(range(first, stop), [_as_computed(s, first) for s in segments]) for first, stop in pairwise(ends)]
        for kind in self.costs.blocks:
            self.costs.observe_blocks(
                kind,
                [
                    (shapes, [part_ms[b] - stalls_ms.get(b, 0.0) for b in stretch if self.costs.kinds[b] == kind])
                    for stretch, shapes in stretches
                ],
            )

    def _load_ms(self, supply: StepSupply) -> tuple[float, ...]:
        by_tier = {
            tier: self.costs.load_ms(tier, supply.record_bytes) for tier in set(supply.tiers) if tier is not None
        }
        return tuple(0.0 if tier is None else by_tier[tier] for tier in supply.tiers)


def _as_computed(segment: tuple[SegmentShape, int], block: int) -> SegmentShape:
    """What a segment computes in a block, by its full prefix."""
    shape, full_prefix = segment
    return shape.in_full() if block < full_prefix else shape
