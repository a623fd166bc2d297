"""Splits the weight files of a diffusers folder into shards that travel, and joins them."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save_file


def shard_weights(folder: Path, shard_bytes: int) -> None:
    """Split every larger .safetensors file below the folder, as diffusers and transformers do when they save.

    A single larger tensor stays whole.
    """
    for path in sorted(folder.rglob("*.safetensors")):
        if path.stat().st_size > shard_bytes:
            _split(path, shard_bytes)


def merge_weights(folder: Path) -> None:
    """Join the shards of every part below the folder into one .safetensors file each."""
    for index in sorted(folder.rglob("*.safetensors.index.json")):
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        weights = {key: weight for name in names for key, weight in load_file(index.with_name(name)).items()}
        whole = index.with_name(index.name.removesuffix(".index.json"))
        save_file(weights, whole, metadata={"format": "pt"})
        for name in names:
            if name != whole.name:
                index.with_name(name).unlink()
        index.unlink()


def remove_weights(folder: Path) -> None:
    """Remove the folder's weight files and their index, which a new save in another form would leave behind."""
    for path in folder.glob("*.safetensors*"):
        path.unlink()


def _split(path: Path, shard_bytes: int) -> None:
    weights = load_file(path)
    overhead_bytes = 200 * len(weights)  # the header of a file: names, shapes, offsets
    plan = split_torch_state_dict_into_shards(
        weights, filename_pattern=f"{path.stem}{{suffix}}.safetensors", max_shard_size=shard_bytes - overhead_bytes
    )
    for name, keys in plan.filename_to_tensors.items():
        save_file({key: weights[key] for key in keys}, path.with_name(name), metadata={"format": "pt"})
    index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
    path.with_name(f"{path.name}.index.json").write_text(json.dumps(index, indent=1) + "\n")
    if path.name not in plan.filename_to_tensors:
        path.unlink()
