"""What happens when in one step, for any choice of blocks to run in full. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from instgenie.pipeline.planner import BlockCosts, LoaderState


@dataclass(frozen=True, slots=True)
class Timeline:
    """One step, in milliseconds from its start.

    Attributes:
        step_ms: until the last block was computed.
        stall_ms: of it, compute waiting for records: the sum of `wait_ms`.
        loader_end_ms: until the last record was there and the loader is free.
        start_ms: of each block, when its compute began.
        wait_ms: of each block, how long compute stood still before it.
    """

    step_ms: float
    stall_ms: float
    loader_end_ms: float
    start_ms: tuple[float, ...]
    wait_ms: tuple[float, ...]


def timeline(costs: BlockCosts, loader: LoaderState, is_full: Sequence[bool]) -> Timeline:
    """Play a step through, whether or not a masked-only flow could run it.

    Full blocks neither load nor keep their record. A load begins when the one before it is done and the buffer has
    room; buffers are given back when their block was computed.

    Args:
        is_full: of each block, whether it runs on all tokens.
    Raises:
        ValueError: not as many as blocks, or a record that has to be loaded never finds room in the buffer.
    """
    if len(is_full) != len(costs):
        raise ValueError(f"is_full has {len(is_full)} blocks, the costs {len(costs)}")
    buffer = _Buffer(costs, loader.buffer_bytes, is_full)
    compute_ms, loader_ms = 0.0, loader.busy_ms
    start_ms, wait_ms = [], []
    for block, full in enumerate(is_full):
        arrival_ms = compute_ms
        if not full and costs.load_ms[block] > 0:
            loader_ms = max(loader_ms, buffer.take(block)) + costs.load_ms[block]
            compute_ms = max(compute_ms, loader_ms)
        start_ms.append(compute_ms)
        wait_ms.append(compute_ms - arrival_ms)
        compute_ms += costs.full_ms[block] if full else costs.masked_ms[block]
        if not full:
            buffer.give_back(block, compute_ms)
    return Timeline(compute_ms, sum(wait_ms), loader_ms, tuple(start_ms), tuple(wait_ms))


class _Buffer:
    """The bytes that records of masked blocks take, and when they are given back."""

    def __init__(self, costs: BlockCosts, limit_bytes: int | None, is_full: Sequence[bool]) -> None:
        self._load_bytes = costs.load_bytes
        self._limit_bytes = limit_bytes
        loads_ahead = zip(costs.load_bytes, costs.load_ms, is_full, strict=True)
        self._taken_bytes = sum(size for size, load_ms, full in loads_ahead if load_ms == 0 and not full)
        self._given_back: deque[tuple[float, int]] = deque()  # when, bytes; in block order

    def take(self, block: int) -> float:
        """Set the block's bytes aside; the time at which so many are free."""
        self._taken_bytes += self._load_bytes[block]
        free_ms = 0.0
        while self._limit_bytes is not None and self._taken_bytes > self._limit_bytes:
            if not self._given_back:
                raise ValueError(
                    f"record of block {block} never finds room: {self._load_bytes[block]} bytes in a buffer of "
                    f"{self._limit_bytes} bytes"
                )
            free_ms, size = self._given_back.popleft()
            self._taken_bytes -= size
        return free_ms

    def give_back(self, block: int, now_ms: float) -> None:
        self._given_back.append((now_ms, self._load_bytes[block]))
