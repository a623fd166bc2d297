"""From a model's folder to a model on a device of this machine."""

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
    device: str | None = None,
) -> Checkpoint:
    """Load a model. From then on this process is quiet about what libraries say in passing.

    Args:
        model: folder in the diffusers format; None is the embedded model.
        dtype: auto measures which is faster.
        threads: of the CPU; None is one per core.
        device: cpu, cuda or cuda:N; None is the best one.
    Raises:
        CheckpointError: the folder holds no usable model.
        ParameterError: the device is not there.
    """
    quiet_libraries()
    if threads is not None:
        set_threads(threads)
    where = compute_device(device)
    return load_checkpoint(model or BUILTIN, dtype_of(dtype, where), where)
