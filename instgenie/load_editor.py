"""From a model's folder to an editor on this machine's best device."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from instgenie.checkpoint import BUILTIN, load_checkpoint
from instgenie.compute_dtype import dtype_of
from instgenie.editor import Editor
from instgenie.host import available_memory_bytes, compute_device, quiet_libraries, set_threads
from instgenie_cache import MemoryStore


def load_editor(
    model: Path | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    threads: int | None = None,
    cache_bytes: int | None = None,
) -> Editor:
    """Load a model. From then on this process is quiet about what libraries say in passing.

    Args:
        model: folder in the diffusers format; None is the embedded model.
        dtype: auto measures which is faster.
        threads: of the CPU; None is one per core.
        cache_bytes: memory for records; None is half of what is free once the model is loaded.
    Raises:
        CheckpointError: the folder holds no usable model.
    """
    quiet_libraries()
    if threads is not None:
        set_threads(threads)
    device = compute_device()
    checkpoint = load_checkpoint(model or BUILTIN, dtype_of(dtype, device), device)
    return Editor(checkpoint, MemoryStore(available_memory_bytes() // 2 if cache_bytes is None else cache_bytes))
