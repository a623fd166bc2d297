"""From a model's folder to an editor on this machine's best device."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from instgenie.codecs import CodecName
from instgenie.editor import Editor
from instgenie.free_memory import available_memory_bytes
from instgenie.load_model import load_model
from instgenie_cache import MemoryStore, RecordStore


def load_editor(
    model: Path | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    threads: int | None = None,
    cache_bytes: int | None = None,
    *,
    store: RecordStore | None = None,
    codec: CodecName = "raw",
    drift: float = 0.0,
    device_cache_bytes: int | None = None,
) -> Editor:
    """An editor of the model that `load_model` loads, which takes the same first arguments.

    Args:
        cache_bytes: memory for records; None is half of what is free once the model is loaded.
        store: keeps the records instead, and is the editor's from then on.
        codec, drift: of the records, as for `Editor`.
        device_cache_bytes: of the device tier; None as for `Editor`.
    Raises:
        CheckpointError: the folder holds no usable model.
        ParameterError: drift is not in 0 <= drift < 1.
    """
    checkpoint = load_model(model, dtype, threads)
    if store is None:
        store = MemoryStore(available_memory_bytes() // 2 if cache_bytes is None else cache_bytes)
    return Editor(checkpoint, store, codec=codec, drift=drift, device_cache_bytes=device_cache_bytes)
