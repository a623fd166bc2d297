"""Parts of blocks compiled once, for any number of tokens and of segments.

Code for each length by itself takes seconds for each, where a service meets dozens, and was no quicker; with symbolic
lengths it is made once. Lengths are padded to buckets all the same: kernels that Triton makes differ by whether a
length is a multiple of 16, memory is handed out again in the same sizes, and CUDA graphs, which hold one length each,
would be few. None are captured here: a graph's results lie in memory that the next call overwrites, and a recorder
keeps K and V.

On a CPU a step costs as much with compiled parts as without, small ones more, and a start takes 15 s longer on idle
cores (`scripts/bench/compile.py`). On CUDA they should save launches and passes over memory; they were not run there
yet. So nothing is compiled that is not asked for.

Attention is not compiled: it looks up records, waits for loads and is called for each segment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from instgenie.models import parts
from instgenie.models.parts import Heads

Backend = str | Callable[..., Any]  # of `torch.compile`


@dataclass(frozen=True, slots=True)
class BlockParts:
    """The functions of `parts` that a forward calls.

    Attributes:
        are_compiled: they want padded tensors, `rows`, and modulation of two segments or more.
    """

    enter_stream: Callable[..., Heads] = parts.enter_stream
    leave_stream: Callable[..., Tensor] = parts.leave_stream
    enter_single: Callable[..., tuple[Heads, Tensor]] = parts.enter_single
    leave_single: Callable[..., Tensor] = parts.leave_single
    are_compiled: bool = False


def compiled_parts(backend: Backend = "inductor") -> BlockParts:
    """The same functions, compiled when they are called first: all blocks and both streams share the code."""
    return BlockParts(
        enter_stream=_compiled(parts.enter_stream, backend),
        leave_stream=_compiled(parts.leave_stream, backend),
        enter_single=_compiled(parts.enter_single, backend),
        leave_single=_compiled(parts.leave_single, backend),
        are_compiled=True,
    )


def _compiled(part: Callable[..., Any], backend: Backend) -> Callable[..., Any]:
    run = torch.compile(part, dynamic=False, backend=backend)  # True would leave the number of channels open too

    def call(modules: object, *tensors: Tensor) -> Any:
        for tensor in tensors:
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return run(modules, *tensors)

    return call
