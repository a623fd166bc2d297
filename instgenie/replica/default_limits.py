"""How large batches may be on a device, where nobody says."""

from __future__ import annotations

import torch

from instgenie.checkpoint import Checkpoint
from instgenie.free_memory import available_memory_bytes
from instgenie.sched.limits import BatchLimits

_MEMORY_SHARE = 0.25
_CUDA_ROWS, _CPU_ROWS = 32_768, 4096
# Edits that a step may compute densely at least, whatever the model's size: one that is cold or begins with a refresh,
# and others beside it.
_CANVASES = 2


def dense_rows(checkpoint: Checkpoint) -> int:
    """Rows of an edit's step that computes all tokens of the largest canvas: a refresh's."""
    settings = checkpoint.settings
    return (1 if checkpoint.distilled else 2) * (settings.canvas_tokens + settings.text_tokens)


def default_limits(checkpoint: Checkpoint) -> BatchLimits:
    """Edits and lanes may take a quarter of the memory that is free once the model is loaded.

    Several steps of a lane in one forward are no faster on a CPU, and would keep edits waiting.
    """
    device = checkpoint.forward.device
    least_rows = _CANVASES * dense_rows(checkpoint)
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        rows = max(_CUDA_ROWS, least_rows)
        return BatchLimits(rows=rows, lane_rows=rows, num_bytes=max(1, int(_MEMORY_SHARE * free_bytes)))
    num_bytes = max(1, int(_MEMORY_SHARE * available_memory_bytes()))
    return BatchLimits(rows=max(_CPU_ROWS, least_rows), lane_rows=1, num_bytes=num_bytes)
