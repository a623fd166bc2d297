"""An editor from a folder."""

from __future__ import annotations

from pathlib import Path

import torch

from instgenie.load_editor import load_editor
from instgenie_cache import MemoryStore


def test_editor_is_as_asked_for(tiny_builtin: Path) -> None:
    store = MemoryStore(10)
    editor = load_editor(tiny_builtin, "bfloat16", store=store, codec="fp8", device_cache_bytes=5)
    assert editor.checkpoint.forward.dtype == torch.bfloat16
    assert editor.store is store
    assert (editor.codec, editor.shelf.device_tier.budget_bytes) == ("fp8", 5)


def test_memory_for_records(tiny_builtin: Path) -> None:
    editor = load_editor(tiny_builtin, "float32", cache_bytes=123)
    assert (editor.store.stats().budget_bytes, editor.codec) == (123, "raw")
