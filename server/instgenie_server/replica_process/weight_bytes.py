"""How large a model is, before it is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_WEIGHTS = ("*.safetensors", "*.bin")


def weight_bytes(folder: Path, patterns: Iterable[str] = _WEIGHTS) -> int:
    """Size of a model folder's weights: about what they will take in memory. 0 where there is no such folder."""
    return sum(file.stat().st_size for pattern in patterns for file in folder.rglob(pattern))
