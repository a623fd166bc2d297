"""Hashes of large files are remembered; wrong memories cost nothing but time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from instgenie import revision
from instgenie.errors import CheckpointError
from instgenie.revision import RememberedHashes, default_path, hash_file, loaded_files


class CountedHash:
    """Hashes files and counts how often."""

    def __init__(self) -> None:
        self.paths: list[Path] = []

    def __call__(self, path: Path) -> str:
        self.paths.append(path)
        return hash_file(path)


@pytest.fixture(autouse=True)
def small_files_count_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revision, "REMEMBERED_BYTES", 10)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file that counts as large."""
    path = tmp_path / "weights"
    path.write_bytes(b"0123456789")
    return path


def test_second_start_does_not_read_the_weights(weights: Path, tmp_path: Path) -> None:
    first, second = CountedHash(), CountedHash()
    memory = tmp_path / "cache" / "digests.json"
    expected = hash_file(weights)
    assert RememberedHashes(memory, first)(weights) == expected
    assert RememberedHashes(memory, second)(weights) == expected
    assert (first.paths, second.paths) == ([weights], [])


def test_changed_file_is_read_again(weights: Path, tmp_path: Path) -> None:
    memory = tmp_path / "digests.json"
    RememberedHashes(memory)(weights)
    status = weights.stat()
    probe = tmp_path / "probe"
    probe.write_bytes(b"")
    while probe.stat().st_ctime_ns <= status.st_ctime_ns:  # the file system's clock has ticks of some milliseconds
        probe.write_bytes(b"")
    weights.write_bytes(b"9876543210")
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))  # the same size and time of change
    assert RememberedHashes(memory)(weights) == hash_file(weights)


def test_small_files_are_not_remembered(tmp_path: Path) -> None:
    small = tmp_path / "config.json"
    small.write_bytes(b"{}")
    RememberedHashes(tmp_path / "digests.json")(small)
    assert not (tmp_path / "digests.json").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"x": 1}', b"\xff", b"{" * 100_000])
def test_spoilt_memory(weights: Path, tmp_path: Path, content: bytes) -> None:
    memory = tmp_path / "digests.json"
    memory.write_bytes(content)
    assert RememberedHashes(memory)(weights) == hash_file(weights)
    counted = CountedHash()
    RememberedHashes(memory, counted)(weights)
    assert not counted.paths


@pytest.mark.parametrize("entry", ["null", "[]", "[1, 2]", "[[], 5]", '"text"'])
def test_spoilt_entry(weights: Path, tmp_path: Path, entry: str) -> None:
    memory = tmp_path / "digests.json"
    memory.write_text(f'{{"{weights}": {entry}}}')
    assert RememberedHashes(memory)(weights) == hash_file(weights)


def test_memory_that_cannot_be_written(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert RememberedHashes(tmp_path / "file" / "digests.json")(weights) == hash_file(weights)


def test_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "instgenie" / "digests.json"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_path() == tmp_path / ".cache" / "instgenie" / "digests.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_path() == tmp_path / ".cache" / "instgenie" / "digests.json"


def test_user_without_a_home(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert default_path() is None
    assert RememberedHashes()(weights) == hash_file(weights)


@pytest.mark.parametrize(
    "content", ["{}", '{"weight_map": []}', '{"weight_map": {"x": 1}}', '{"weight_map": {"x": "../y"}}']
)
def test_index_that_names_no_shards(tmp_path: Path, content: str) -> None:
    index = tmp_path / "vae" / "diffusion_pytorch_model.safetensors.index.json"
    index.parent.mkdir()
    index.write_text(content)
    with pytest.raises(CheckpointError, match="weight_map") as caught:
        loaded_files(tmp_path)
    assert str(index) in str(caught.value)
