"""From a model's folder to a model on this machine's best device."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from instgenie.checkpoint import BUILTIN, Checkpoint, load_checkpoint
from instgenie.compute_dtype import dtype_of
from instgenie.host import compute_device, quiet_libraries, set_threads


def load_model(
    model: Path | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    threads: int | None = None,
) -> Checkpoint:
    """Load a model. From then on this process is quiet about what libraries say in passing.

    Args:
        model: folder in the diffusers format; None is the embedded model.
        dtype: auto measures which is faster.
        threads: of the CPU; None is one per core.
    Raises:
        CheckpointError: the folder holds no usable model.
    """
    quiet_libraries()
    if threads is not None:
        set_threads(threads)
    device = compute_device()
    return load_checkpoint(model or BUILTIN, dtype_of(dtype, device), device)
