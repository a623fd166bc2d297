"""Plans a replica's steps: what is to be loaded from where, priced by the cost model, which learns from every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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

    def plan(self, shapes: Sequence[SegmentShape], supply: StepSupply, *, takes_all: bool = False) -> StepPlan:
        """How to run a step.

        Args:
            shapes: its segments, with their active tokens.
            takes_all: take every record, however long that takes.
        """
        costs = self._block_costs(shapes, supply)
        busy_ms = sum(self.costs.load_ms(tier, num_bytes) for tier, num_bytes in supply.queued.items())
        loader = LoaderState(busy_ms, supply.budget_bytes if supply.buffer_bytes else None)
        full_blocks = 0 if takes_all else self._full_blocks(costs, loader)
        is_full = [block < full_blocks for block in range(len(costs))]
        times = timeline(costs, loader, is_full)
        return StepPlan(full_blocks, times.step_ms + self.costs.overhead_ms(shapes), times.stall_ms)

    def _full_blocks(self, costs: BlockCosts, loader: LoaderState) -> int:
        """How many blocks to run in full: the first ones, which is no later than the same number elsewhere.

        None by our policy where there is nothing to load, whatever costs say: what a plan computes on all tokens shows
        in the picture, and the same request shall give the same one.
        """
        if self._policy is full_prefix and not any(costs.load_ms):
            return 0
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

    def observe(
        self,
        shapes: Sequence[SegmentShape],
        plan: StepPlan,
        part_ms: Sequence[float],
        stalls_ms: Mapping[int, float],
        waited_ms: float = 0.0,
    ) -> None:
        """Learn from a step that was run as planned.

        Args:
            part_ms: of each block, waiting for its record included, and of the head.
            stalls_ms: of it, waiting, by block.
            waited_ms: before the first block.
        """
        if self._guard is not None:
            step_ms, fitted_ms = sum(part_ms) + waited_ms, self.costs.fitted_ms([shape.in_full() for shape in shapes])
            if plan.full_prefix == len(self.costs.kinds):
                self._guard.observe_dense(step_ms, fitted_ms)
            else:
                self._guard.observe_plan(step_ms, plan.step_ms, fitted_ms)
        full = [shape.in_full() for shape in shapes]
        for kind in self.costs.blocks:
            for segments, blocks in (
                (full, range(1, plan.full_prefix)),  # the first block is measured with what is before it
                (shapes, range(max(1, plan.full_prefix), len(self.costs.kinds))),
            ):
                took = [
                    part_ms[block] - stalls_ms.get(block, 0.0) for block in blocks if self.costs.kinds[block] == kind
                ]
                self.costs.observe_blocks(kind, segments, took)

    def _block_costs(self, shapes: Sequence[SegmentShape], supply: StepSupply) -> BlockCosts:
        by_tier = {
            tier: self.costs.load_ms(tier, supply.record_bytes) for tier in set(supply.tiers) if tier is not None
        }
        return BlockCosts(
            masked_ms=self.costs.blocks_ms(shapes),
            full_ms=self.costs.blocks_ms([shape.in_full() for shape in shapes]),
            load_ms=tuple(0.0 if tier is None else by_tier[tier] for tier in supply.tiers),
            load_bytes=(supply.buffer_bytes,) * len(supply.tiers),
        )
