"""Picture files on disk, named by their content: `files/ab/cdef...`. Calls block; `PictureFiles` has threads for them.

A name is the SHA-256 of the bytes, not the xxh3 of the activation cache: the bytes are the clients' own and the files
are shared between tenants, and for xxh3 anyone can make a second file of the same digest, which others would be served.

A file is durable once `write` returns: written under `incoming/`, synced, renamed, and the folder synced.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from instgenie_server.jobs.errors import CorruptFileError, MissingFileError, PictureFileError

_DIGEST = re.compile("[0-9a-f]{64}")


def picture_digest(data: bytes) -> str:
    """SHA-256 as 64 hex digits: the name of a file with these bytes."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file's size, and when it was last written, in seconds since 1970."""

    num_bytes: int
    written_at: float


class PictureFolder:
    """The files below one folder. All errors of the system come as `PictureFileError`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / "incoming"

    def prepare(self) -> None:
        """Make the folders; throw away what a crash left half written."""
        with _mapped(f"preparing {self._root}"):
            for folder in (self._incoming, *(self._root / f"{prefix:02x}" for prefix in range(256))):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for leftover in self._incoming.iterdir():
                leftover.unlink()
            for folder in (self._root, self._root.parent):
                _sync_folder(folder)

    def write(self, digest: str, data: bytes) -> None:
        """Keep the bytes durably under their digest; one that is there already counts as written now."""
        path = self.path(digest)
        with _mapped(f"writing {path}"):
            if _contains(path, data):
                os.utime(path)
            else:
                self._write_new(path, data)
            _sync_folder(path.parent)  # also for a file that is there: whoever made it may not have come that far

    def read(self, digest: str) -> bytes:
        """The bytes.

        Raises:
            MissingFileError: there is no such file.
            CorruptFileError: its bytes have changed.
        """
        path = self.path(digest)
        with _mapped(f"reading {path}"):
            data = path.read_bytes()
        if picture_digest(data) != digest:
            raise CorruptFileError(f"{path}: the {len(data)} bytes are not those that were written")
        return data

    def drop_corrupt(self, digest: str) -> None:
        """Delete the file unless it is sound."""
        try:
            self.read(digest)
        except CorruptFileError:
            self.delete(digest)

    def delete(self, digest: str) -> bool:
        """Delete the file; whether it was there."""
        path = self.path(digest)
        with _mapped(f"deleting {path}"):
            try:
                path.unlink()
            except FileNotFoundError:
                return False
            return True

    def list(self) -> dict[str, StoredFile]:
        """All files by digest."""
        files: dict[str, StoredFile] = {}
        with _mapped(f"listing {self._root}"):
            for prefix in range(256):
                for entry in os.scandir(self._root / f"{prefix:02x}"):
                    digest = f"{prefix:02x}{entry.name}"
                    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                        if _DIGEST.fullmatch(digest):
                            stat = entry.stat()
                            files[digest] = StoredFile(stat.st_size, stat.st_mtime)
        return files

    def path(self, digest: str) -> Path:
        """Where the file of that digest is, or would be."""
        assert _DIGEST.fullmatch(digest), digest
        return self._root / digest[:2] / digest[2:]

    def _write_new(self, path: Path, data: bytes) -> None:
        descriptor, name = tempfile.mkstemp(dir=self._incoming)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _contains(path: Path, data: bytes) -> bool:
    """Whether the file has exactly these bytes: a rotten one is written anew."""
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _mapped(doing: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise MissingFileError(f"{doing}: there is no such file") from error
    except OSError as error:
        raise PictureFileError(f"{doing}: {error.strerror or error}") from error
