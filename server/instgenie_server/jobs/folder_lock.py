"""One server per data folder: two would run the same jobs, and each would delete what the other just wrote."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from instgenie_server.jobs.errors import FolderInUseError, JobStoreError

_NAME = "server.lock"


@asynccontextmanager
async def locked_folder(folder: Path) -> AsyncIterator[None]:
    """Hold the folder's lock for the block; see `FolderLock.take`."""
    lock = FolderLock(folder)
    await asyncio.to_thread(lock.take)
    try:
        yield
    finally:
        lock.release()


class FolderLock:
    """Held from `take` to `release`, or until the process is gone, however it went."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def take(self) -> None:
        """Make the folder if need be, and lock it.

        Raises:
            FolderInUseError: another process holds it.
        """
        assert self._descriptor is None
        path = self._folder / _NAME
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JobStoreError(f"{path} cannot be opened: {error.strerror or error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise FolderInUseError(f"another server works on {self._folder}: stop it, or use another folder") from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Let others have it."""
        assert self._descriptor is not None
        os.close(self._descriptor)
        self._descriptor = None
