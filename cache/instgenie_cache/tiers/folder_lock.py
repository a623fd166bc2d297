"""One owner per cache folder: LMDB admits a second process, but the books of what is stored are kept in memory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from instgenie_cache.errors import CacheError

_NAME = "lock"


class FolderInUseError(CacheError):
    """Somebody else has the lock of a folder."""


class FolderLock:
    """Held from `take` or `share` to `release`, or until the process is gone, however it went."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def take(self) -> None:
        """Make the folder if need be, for its owner's eyes alone, and lock it.

        Raises:
            FolderInUseError: another owner holds it, in this process or another.
            CacheError: the folder cannot be used.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(f"{self._folder} cannot be made: {error.strerror or error}") from error
        self._lock(os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX)

    def share(self) -> None:
        """Keep owners out without changing the folder; others may share it. Where nobody ever had it, nothing is held.

        Raises:
            FolderInUseError: an owner holds it.
            CacheError: it cannot be told whether one does.
        """
        try:
            self._lock(os.O_RDONLY, fcntl.LOCK_SH)
        except CacheError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise

    def release(self) -> None:
        """Let others have it. What is not held is no error."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self, flags: int, kind: int) -> None:
        assert self._descriptor is None
        path = self._folder / _NAME
        try:
            descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CacheError(f"{path} cannot be opened: {error.strerror or error}") from error
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise FolderInUseError(f"another cache works on {self._folder}: stop it, or use another folder") from error
        except OSError as error:
            os.close(descriptor)
            raise CacheError(f"{path} cannot be locked: {error.strerror or error}") from error
        self._descriptor = descriptor
