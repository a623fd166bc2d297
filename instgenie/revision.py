"""What tells one model's records from another's: a digest of all that was loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import xxhash

from instgenie.errors import CheckpointError
from instgenie.model_settings import ModelSettings, read_json

PARTS = ("transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
# Files below this size are hashed at every start: that takes less than 0.1 s even from a slow disk.
REMEMBERED_BYTES = 128 << 20
_DIFFUSERS_PARTS = ("transformer", "vae")
_TEXTS = (
    "config.json",
    "scheduler_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
)

HashFile = Callable[[Path], str]


def hash_file(path: Path) -> str:
    """xxh3-128 of a file's content."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def revision(folder: Path, settings: ModelSettings, hash_one: HashFile = hash_file) -> str:
    """xxh3-128 of every file and setting that changes an activation and has no entry of its own in a template's key.

    Files beside those that are loaded (notes, weights of another precision) make no difference.

    Raises:
        CheckpointError: a file cannot be read.
    """
    digest = xxhash.xxh3_128(f"text_tokens:{settings.text_tokens}\n".encode())
    for path in loaded_files(folder):
        try:
            digest.update(f"{path.relative_to(folder).as_posix()}:{hash_one(path)}\n".encode())
        except OSError as error:
            raise CheckpointError(f"{path}: {error}") from error
    return digest.hexdigest()


def loaded_files(folder: Path) -> list[Path]:
    """The files of a diffusers folder that loading it reads, in a fixed order.

    Where a part has its weights both in one file and in shards, diffusers reads the shards, transformers the file.

    Raises:
        CheckpointError: an index names no shards.
    """
    found = []
    for part in PARTS:
        found += [path for name in _TEXTS if (path := folder / part / name).is_file()]
        is_diffusers = part in _DIFFUSERS_PARTS
        whole = folder / part / ("diffusion_pytorch_model.safetensors" if is_diffusers else "model.safetensors")
        index = whole.with_name(f"{whole.name}.index.json")
        if index.is_file() and (is_diffusers or not whole.is_file()):
            found += [index, *(folder / part / shard for shard in _shards(index))]
        elif whole.is_file():
            found.append(whole)
    return found


def _shards(index: Path) -> list[str]:
    """Names of the files that an index lists, all of them beside it."""
    files = read_json(index).get("weight_map")
    names = set(files.values()) if isinstance(files, dict) and all(isinstance(f, str) for f in files.values()) else ()
    if not names or any(Path(name).name != name for name in names):
        raise CheckpointError(f"{index}: weight_map = {str(files)[:80]} is not an object of file names")
    return sorted(names)


class RememberedHashes:
    """Hashes of large files, kept on disk by path, size, times and inode, so that a start does not read 24 GB.

    A file of remembered hashes that is missing, unreadable or cannot be written costs time, nothing else.
    """

    def __init__(self, path: Path | None = None, hash_one: HashFile = hash_file) -> None:
        self._path = path or default_path()  # None: nothing is remembered
        self._hash_one = hash_one
        self._known = self._read()

    def __call__(self, path: Path) -> str:
        """The file's hash."""
        status = path.stat()
        if status.st_size < REMEMBERED_BYTES:
            return self._hash_one(path)
        name = str(path.resolve())
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        known = self._known.get(name)
        if isinstance(known, list) and len(known) == 2 and known[0] == stamp and isinstance(known[1], str):
            return known[1]
        digest = self._hash_one(path)
        self._known[name] = [stamp, digest]
        self._write()
        return digest

    def _read(self) -> dict[str, object]:
        if self._path is None:
            return {}
        with suppress(OSError, ValueError, RecursionError):
            content = json.loads(self._path.read_text())
            if isinstance(content, dict):
                return content
        return {}

    def _write(self) -> None:
        if self._path is None:
            return
        partial = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(self._known))
            partial.replace(self._path)


def default_path() -> Path | None:
    """`instgenie/digests.json` in the user's cache folder; None where the user has no home."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # the XDG specification has relative ones ignored
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            return None
    return base / "instgenie" / "digests.json"
