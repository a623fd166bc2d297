"""How long a batch's step takes whose edits load records: each edit's plan, and the step that comes of all. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from instgenie.pipeline.planner import BlockCosts, LoaderState, plan_step


@dataclass(frozen=True, slots=True)
class Reading:
    """An edit of the batch whose records have to be loaded.

    Attributes:
        more_in_full: seconds by which the step is longer if it computes all tokens.
        load: seconds of loading all its records.
        ahead: blocks, the first ones, whose records are there when the step begins.
        after: seconds from the step's begin, until which its records cannot be loaded.
    """

    more_in_full: float
    load: float
    ahead: int = 0
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class StepTime:
    """A step, in seconds.

    Attributes:
        loading: of it, what the loader was at work.
        prefixes: blocks that each edit computed in full.
    """

    seconds: float
    loading: float
    prefixes: tuple[int, ...]


def step_time(masked: float, readings: Sequence[Reading], blocks: int) -> StepTime:
    """Plan the edits one after the other, each behind the loads of those before it, and play the step.

    All blocks take equal time. One loader brings records in the order of the edits, and of their blocks.

    Args:
        masked: seconds of the whole batch's step, with all records there.
    """
    block = masked / blocks
    loader, loading = 0.0, 0.0
    loads: list[tuple[Reading, float, int]] = []  # when the loader begins with it, its first block
    prefixes: list[int] = []
    for reading in readings:
        begins = max(loader, reading.after)
        prefix = _planned_prefix(block, reading, begins, blocks)
        first = max(prefix, reading.ahead)
        seconds = (blocks - first) * reading.load / blocks
        loads.append((reading, begins, first))
        prefixes.append(prefix)
        if seconds > 0:
            loader, loading = begins + seconds, loading + seconds

    def left(block_number: int) -> float:
        """Seconds of computing this block and those after it."""
        in_full = sum(
            reading.more_in_full / blocks * (prefix - block_number)
            for reading, prefix in zip(readings, prefixes, strict=True)
            if prefix > block_number
        )
        return (blocks - block_number) * block + in_full

    # Later blocks never take longer to compute than earlier ones, and loads are evenly long: what is waited for longest
    # is an edit's first load or its last one.
    seconds = left(0)
    for reading, begins, first in loads:
        if first < blocks and reading.load > 0:
            each = reading.load / blocks
            last = begins + (blocks - first) * each + left(blocks - 1)
            seconds = max(seconds, begins + each + left(first), last)
    return StepTime(seconds, loading, tuple(prefixes))


def _planned_prefix(block: float, reading: Reading, begins: float, blocks: int) -> int:
    load, more = reading.load / blocks, reading.more_in_full / blocks
    waits = blocks - reading.ahead
    if reading.ahead and begins + load <= reading.ahead * block and begins + waits * load <= (blocks - 1) * block:
        return 0  # nothing is waited for
    if not waits or not load:
        return 0
    ahead = (0.0,) * reading.ahead
    costs = BlockCosts((block,) * blocks, (block + more,) * blocks, ahead + (load,) * waits, (0,) * blocks)
    return plan_step(costs, LoaderState(begins)).full_prefix
