"""The fastest step of any choice of full and masked blocks, whether or not it could be run. The buffer has no limit."""

from __future__ import annotations

from math import inf

from instgenie.pipeline.planner import BlockCosts


def optimum_ms(costs: BlockCosts, busy_ms: float = 0.0) -> float:
    """By a dynamic programme over the blocks.

    Its states are the clocks of the loader and of compute; of two, one that is behind on neither clock replaces the
    other.
    """
    states = [(busy_ms, 0.0)]
    for masked_ms, full_ms, load_ms in zip(costs.masked_ms, costs.full_ms, costs.load_ms, strict=True):
        reached = [(loader_ms, compute_ms + full_ms) for loader_ms, compute_ms in states]
        for loader_ms, compute_ms in states:
            if load_ms > 0:
                loaded_ms = loader_ms + load_ms
                reached.append((loaded_ms, max(compute_ms, loaded_ms) + masked_ms))
            else:
                reached.append((loader_ms, compute_ms + masked_ms))
        states = _undominated(reached)
    return min(compute_ms for _, compute_ms in states)


def _undominated(reached: list[tuple[float, float]]) -> list[tuple[float, float]]:
    kept = []
    fastest_ms = inf
    for loader_ms, compute_ms in sorted(reached):
        if compute_ms < fastest_ms:
            fastest_ms = compute_ms
            kept.append((loader_ms, compute_ms))
    return kept
