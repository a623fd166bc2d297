"""Checkpoints and weights in files that are small enough to travel."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from builtin_recipe.state_files import INDEX, has_state, load_state, save_state
from builtin_recipe.weight_shards import merge_weights, remove_weights, shard_weights


def state(value: float) -> dict[str, Any]:
    return {"model": {"weight": torch.full((100, 100), float(value))}, "progress": {"step": int(value)}}


def value_of(path: Path) -> tuple[float, int]:
    found = load_state(path)
    return float(found["model"]["weight"].mean()), found["progress"]["step"]


@pytest.mark.parametrize("shard_bytes", [None, 9000])
def test_a_state_comes_back_in_either_form(tmp_path: Path, shard_bytes: int | None) -> None:
    path = tmp_path / "deep" / "run"
    assert not has_state(path)
    for value in (1.0, 2.0, 3.0):
        save_state(state(value), path, shard_bytes)
        assert has_state(path)
        assert value_of(path) == (value, int(value))
    assert path.is_dir() == (shard_bytes is not None)
    files = [file for file in path.parent.rglob("*") if file.is_file()]
    if shard_bytes is None:
        assert files == [path]
    else:
        assert len(files) > 4
        assert all(file.stat().st_size <= shard_bytes for file in files)


def test_a_path_keeps_its_form(tmp_path: Path) -> None:
    save_state(state(1), tmp_path / "file")
    save_state(state(2), tmp_path / "file", 9000)
    assert (tmp_path / "file").is_file()
    assert value_of(tmp_path / "file") == (2, 2)
    save_state(state(1), tmp_path / "folder", 9000)
    save_state(state(2), tmp_path / "folder")
    assert (tmp_path / "folder").is_dir()
    assert value_of(tmp_path / "folder") == (2, 2)


def test_a_save_that_stopped_halfway_leaves_the_old_state(tmp_path: Path) -> None:
    path, other = tmp_path / "run", tmp_path / "other"
    for saves in (1, 2):
        for value in range(1, saves + 1):
            save_state(state(value), path, 9000)
            save_state(state(value), other, 9000)
        save_state(state(9), other, 9000)
        for shard in list(other.glob("*.shard"))[:2]:  # written, and the index not yet
            assert not (path / shard.name).exists()
            (path / shard.name).write_bytes(shard.read_bytes())
        (path / f"{INDEX}.partial").write_bytes((other / INDEX).read_bytes())
        assert value_of(path) == (saves, saves)
        save_state(state(3), path, 9000)
        assert value_of(path) == (3, 3)
        assert len(list(path.iterdir())) == len(json.loads((path / INDEX).read_text())["shards"]) + 1
        for folder in (path, other):
            shutil.rmtree(folder)


def test_a_missing_or_short_shard_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run"
    save_state(state(1), path, 9000)
    (last,) = sorted(path.glob("*.shard"))[-1:]
    content = last.read_bytes()
    last.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"bytes, .* expected"):
        load_state(path)
    last.unlink()
    with pytest.raises(ValueError, match=f"{last.name} is missing"):
        load_state(path)


def test_weights_are_split_as_their_libraries_split_them(tmp_path: Path) -> None:
    weights = {f"block.{i}.weight": torch.randn(40, 40) for i in range(9)}
    folder = tmp_path / "part"
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    shard_weights(tmp_path, 1 << 30)
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    shard_weights(tmp_path, 20_000)
    shards = sorted(path for path in folder.iterdir() if path.suffix == ".safetensors")
    assert len(shards) > 2
    assert shards[0].name == f"model-00001-of-{len(shards):05}.safetensors"
    assert all(path.stat().st_size <= 20_000 for path in shards)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    found: dict[str, Tensor] = {}
    for path in shards:
        held = load_file(path)
        assert {name for name, file in index.items() if file == path.name} == set(held)
        found |= held
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())
    merge_weights(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    merged = load_file(folder / "model.safetensors")
    assert set(merged) == set(weights)
    assert all(torch.equal(merged[name], weight) for name, weight in weights.items())
    shard_weights(tmp_path, 20_000)
    remove_weights(folder)
    assert not list(folder.iterdir())
