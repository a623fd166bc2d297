"""Room on the disk that is set aside for deletions: LMDB writes new pages before it frees any."""

from __future__ import annotations

import logging
import os
from pathlib import Path

_NAME = "ballast"
# Deletions that go few records at a time need some hundred kB.
_BALLAST_BYTES = 2 << 20
_LEAST_BYTES = 64 << 10

_log = logging.getLogger(__name__)


class Ballast:
    """A file of no content. Where there is no room for all of it, a part has to do, or none."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME

    def restore(self) -> None:
        """Take the room, or as much as there is."""
        num_bytes = _BALLAST_BYTES
        while num_bytes >= _LEAST_BYTES and not self._take(num_bytes):
            num_bytes //= 2

    def drop(self) -> bool:
        """Give the room back to the disk. False where there was none."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            _log.warning("%s cannot be removed: %s", self._path, error)
            return False
        return True

    def _take(self, num_bytes: int) -> bool:
        """Whether the file has so many bytes now, or more."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(descriptor).st_size < num_bytes:
                    os.posix_fallocate(descriptor, 0, num_bytes)
            finally:
                os.close(descriptor)
        except OSError as error:
            _log.debug("%s cannot have %d bytes: %s", self._path, num_bytes, error)
            self.drop()
            return False
        return True
