"""How many blocks of a step to run on all tokens, so that waiting for records never makes an edit slower. Pure.

Records are loaded in block order by one loader, back to back, ahead of compute. Where that takes longer than masked
compute, running the first blocks in full gives the loader a start and spares it their records. Only first blocks can:
with masked tokens alone on the way, a full block further on would lack the hidden states of the others. So a plan is
one number, and the best of all N + 1 is the best that can be run.

Where loads never rise and `full_ms - masked_ms` never falls from one block to the next, as with equal blocks, and the
buffer has no limit, no choice of full blocks whatever is faster: a masked block and a full one right after it can
change places, and the step gets no longer. Elsewhere one that cannot be run may be faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import accumulate
from math import inf

# Shorter by less than this share is rounding: a sum of 57 times is off by 1e-15 of it or so.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class BlockCosts:
    """What each block of one step costs, in block order.

    Attributes:
        masked_ms: computed on masked tokens, with its record on the device.
        full_ms: computed on all tokens, without a record.
        load_ms: of its record; 0 where it is on the device, which is never waited for.
        load_bytes: that the record takes of the loader's buffer until the block is computed; 0 where it takes none.
            Where `load_ms` is 0, it is in the buffer from the step's start, loaded ahead.

    Raises:
        ValueError: of unequal length, below 0 or not finite.
    """

    masked_ms: tuple[float, ...]
    full_ms: tuple[float, ...]
    load_ms: tuple[float, ...]
    load_bytes: tuple[int, ...]

    def __post_init__(self) -> None:
        for field in fields(self):
            values: tuple[float, ...] = getattr(self, field.name)
            if len(values) != len(self.masked_ms):
                raise ValueError(f"{field.name} has {len(values)} blocks, masked_ms {len(self.masked_ms)}")
            for block, value in enumerate(values):
                if not 0 <= value < inf:
                    raise ValueError(f"{field.name} of block {block} is {value}, not a finite number from 0")

    def __len__(self) -> int:
        return len(self.masked_ms)


@dataclass(frozen=True, slots=True)
class LoaderState:
    """The loader at a step's start.

    Attributes:
        busy_ms: until it can begin with this step's records.
        buffer_bytes: that this step's records may take at a time, those loaded ahead included; None is no limit.

    Raises:
        ValueError: below 0 or not finite.
    """

    busy_ms: float = 0.0
    buffer_bytes: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.busy_ms < inf:
            raise ValueError(f"busy_ms is {self.busy_ms}, not a finite number from 0")
        if self.buffer_bytes is not None and self.buffer_bytes < 0:
            raise ValueError(f"buffer_bytes is {self.buffer_bytes}, below 0")


IDLE = LoaderState()


@dataclass(frozen=True, slots=True)
class StepPlan:
    """How to run one step.

    Attributes:
        full_prefix: blocks 0 to full_prefix - 1 run on all tokens, the others on masked tokens.
        step_ms: predicted.
        stall_ms: of it, waiting for records.
    """

    full_prefix: int
    step_ms: float
    stall_ms: float


def plan_step(costs: BlockCosts, loader: LoaderState = IDLE) -> StepPlan:
    """The fastest full prefix; of equally fast ones the longest, which loads least.

    Some prefix always can be run: all of the blocks.
    """
    times_ms = prefix_times(costs, loader)
    full_prefix = len(costs)
    for shorter in reversed(range(len(costs))):
        if times_ms[shorter] < times_ms[full_prefix] * (1 - _ROUNDING):
            full_prefix = shorter
    step_ms = times_ms[full_prefix]
    stall_ms = step_ms - sum(costs.full_ms[:full_prefix]) - sum(costs.masked_ms[full_prefix:])
    return StepPlan(full_prefix, step_ms, stall_ms if stall_ms > step_ms * _ROUNDING else 0.0)


def prefix_times(costs: BlockCosts, loader: LoaderState = IDLE) -> list[float]:
    """Milliseconds of the step for each full prefix 0..N; infinite where a record would never fit into the buffer.

    What follows a moment does not depend on the prefix before it, so that one walk from the last block to the first
    finds, for all prefixes, the longest way from compute's arrival at a block, and from the begin of a load, to the
    step's end.
    """
    full_before_ms = list(accumulate(costs.full_ms, initial=0.0))
    times_ms = full_before_ms[:]  # of no masked block, for the last one
    from_load_ms = -inf
    from_block_ms = 0.0
    after_block_ms = [0.0] * len(costs)  # the longest way that begins with a load into what the block gives back
    makes_room = None if loader.buffer_bytes is None else list(_makes_room(costs, loader.buffer_bytes))
    for block in reversed(range(len(costs))):
        from_block_ms = costs.masked_ms[block] + max(from_block_ms, after_block_ms[block])
        if costs.load_ms[block] > 0:
            from_load_ms = costs.load_ms[block] + max(from_load_ms, from_block_ms)
            if makes_room is not None and (awaited := makes_room[block]) is not None:
                if awaited == block:
                    from_load_ms = inf
                after_block_ms[awaited] = max(after_block_ms[awaited], from_load_ms)
        times_ms[block] = max(full_before_ms[block] + from_block_ms, loader.busy_ms + from_load_ms)
    return times_ms


def _makes_room(costs: BlockCosts, buffer_bytes: int) -> Iterator[int | None]:
    """For each block, the one after which its record can be loaded; None: at once. A block itself: never.

    Blocks of the full prefix need no buffers, so that waiting for one of them is no waiting.
    """
    records = list(zip(costs.load_bytes, costs.load_ms, strict=True))
    taken_bytes = sum(size for size, load_ms in records if load_ms == 0)  # loaded ahead
    given_back = 0
    for block, (size, load_ms) in enumerate(records):
        if load_ms == 0:
            yield None
            continue
        taken_bytes += size
        while taken_bytes > buffer_bytes and given_back <= block:
            taken_bytes -= costs.load_bytes[given_back]
            given_back += 1
        yield given_back - 1 if given_back else None
