"""A training run's state on disk: one file, or a folder of shards that are small enough to travel."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

INDEX = "index.json"
SHARD_BYTES = 15_000_000  # of checkpoints and weights that travel: below what most ways of copying let through


def save_state(state: dict[str, Any], path: Path, shard_bytes: int | None = None) -> None:
    """Write the state so that `path` holds the old one or the new one, whole, whenever the writing stops.

    Args:
        shard_bytes: size of a shard, above 0; None writes one file. A path that exists keeps its form.
    """
    assert shard_bytes is None or shard_bytes > 0
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() or (shard_bytes is not None and not path.exists()):
        _save_shards(state, path, shard_bytes or SHARD_BYTES)
        return
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def _save_shards(state: dict[str, Any], folder: Path, shard_bytes: int) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    folder.mkdir(exist_ok=True)
    present = json.loads((folder / INDEX).read_text())["shards"] if has_state(folder) else []
    # Names that the present index does not list: its shards stay until the new index takes its place.
    turn = "b" if present and present[0].startswith("a") else "a"
    names = [f"{turn}{i:04}.shard" for i in range(-(-len(content) // shard_bytes))]
    for i, name in enumerate(names):
        (folder / name).write_bytes(content[i * shard_bytes : (i + 1) * shard_bytes])
    partial = folder / f"{INDEX}.partial"
    partial.write_text(json.dumps({"shards": names, "bytes": len(content)}, indent=1) + "\n")
    partial.replace(folder / INDEX)
    for shard in folder.glob("*.shard"):
        if shard.name not in names:
            shard.unlink()


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote, in either form, with its tensors on the CPU.

    Raises:
        ValueError: a shard is missing or cut short.
    """
    source: Path | io.BytesIO = path
    if path.is_dir():
        index = json.loads((path / INDEX).read_text())
        missing = [name for name in index["shards"] if not (path / name).exists()]
        content = b"" if missing else b"".join((path / name).read_bytes() for name in index["shards"])
        if len(content) != index["bytes"]:
            fault = f"{missing[0]} is missing" if missing else f"{len(content)} bytes, {index['bytes']} expected"
            raise ValueError(f"{path}: {fault}")
        source = io.BytesIO(content)
    state: dict[str, Any] = torch.load(source, map_location="cpu", weights_only=True)
    return state


def has_state(path: Path) -> bool:
    """Whether there is something to load."""
    return (path / INDEX).exists() if path.is_dir() else path.exists()
