"""Costs of steps to plan: the grid that benchmarks use, and drawn ones."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import strategies as st

from instgenie.pipeline.planner import BlockCosts, LoaderState

GRID = [(load / 10, masked / 10) for load in range(1, 13) for masked in range(1, 7)]  # L/C_full, C_masked/C_full


def equal_blocks(blocks: int, masked_ms: float, full_ms: float, load_ms: float, load_bytes: int = 1) -> BlockCosts:
    return BlockCosts((masked_ms,) * blocks, (full_ms,) * blocks, (load_ms,) * blocks, (load_bytes,) * blocks)


def flux_like(double_cost: float, load: float, masked: float) -> BlockCosts:
    """19 double blocks, then 38 single ones of 1 ms; records of one size."""
    full_ms = (double_cost,) * 19 + (1.0,) * 38
    return BlockCosts(tuple(masked * cost for cost in full_ms), full_ms, (load,) * 57, (1,) * 57)


def prefixes(blocks: int) -> Iterator[tuple[bool, ...]]:
    for length in range(blocks + 1):
        yield (True,) * length + (False,) * (blocks - length)


@st.composite
def block_costs(draw: st.DrawFn, max_blocks: int = 9) -> BlockCosts:
    """Any: blocks that differ in everything, records on the device and in the buffer, masked slower than full."""
    blocks = draw(st.integers(0, max_blocks))
    times = st.lists(st.sampled_from([0.0, 1.0]) | st.floats(0, 3), min_size=blocks, max_size=blocks).map(tuple)
    sizes = st.lists(st.integers(0, 4), min_size=blocks, max_size=blocks).map(tuple)
    return BlockCosts(draw(times), draw(times), draw(times), draw(sizes))


busy_times = st.just(0.0) | st.floats(0, 10)
loader_states = st.builds(LoaderState, busy_times, st.none() | st.integers(0, 14))
