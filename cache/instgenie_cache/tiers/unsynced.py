"""A mark beside a file that is written without syncing, so that a power cut is noticed at the next start."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

from instgenie_cache.errors import CacheError, StoreFullError

_NAME = "unsynced"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class UnsyncedMark:
    """A file that says in which boot of the machine something was written that may not be on the disk yet.

    While the machine runs the kernel has every page, whatever happens to the process.
    """

    def __init__(self, folder: Path, boot_id: str | None = None) -> None:
        """Args:
        boot_id: of this boot; None asks the kernel, empty is unknown.
        """
        self._folder, self._path = folder, folder / _NAME
        self._boot_id = _this_boot() if boot_id is None else boot_id
        self.is_set = self._path.exists()
        self.count = 0  # of writes, to see whether there was another one meanwhile

    def is_from_before_a_restart(self) -> bool:
        """Whether the machine went down while it was set.

        Where the mark does not say, its time does, which is less certain: clocks can be set.

        Raises:
            CacheError: it cannot be told.
        """
        try:
            marked_at = self._path.stat().st_mtime
            boot_id = _read(self._path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise CacheError(f"{self._path} cannot be read: {error.strerror or error}") from error
        if boot_id and self._boot_id:
            return boot_id != self._boot_id
        return marked_at < time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def set(self) -> None:
        """Before a write. The mark is on the disk when this returns, and whole whenever it is there.

        Raises:
            StoreFullError: the disk has no room for it.
            CacheError: it cannot be written.
        """
        self.count += 1
        if self.is_set:
            return
        written = self._folder / f"{_NAME}.new"
        try:
            with written.open("w") as file:
                file.write(self._boot_id)
                file.flush()
                os.fsync(file.fileno())
            written.rename(self._path)
            self._sync_folder()
        except OSError as error:
            kind = StoreFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else CacheError
            raise kind(f"{self._path} cannot be written: {error.strerror or error}") from error
        self.is_set = True

    def clear(self) -> None:
        """After everything was synced.

        Raises:
            CacheError: it cannot be removed.
        """
        try:
            self._path.unlink(missing_ok=True)
            self.is_set = False
            self._sync_folder()  # else a power cut might bring it back
        except OSError as error:
            raise CacheError(f"{self._path} cannot be removed: {error.strerror or error}") from error

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(path: Path) -> str:
    """What a mark says, empty where that cannot be made out."""
    try:
        return path.read_text().strip()
    except (PermissionError, UnicodeDecodeError):
        return ""


def _this_boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
