"""Folders for sockets and secrets of running servers, below the system's folder for temporary files."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "instgenie-server-"
_LOCK = "lock"


@contextmanager
def runtime_folder(below: Path | None = None) -> Iterator[Path]:
    """A folder that nobody else may look into, removed at the end.

    A server that is killed cannot remove its own: the next one does. That a folder is in use tells a lock in it, which
    the system gives back whichever way its server ends.

    Args:
        below: where it is made; None is the system's folder for temporary files.
    """
    below = below or Path(tempfile.gettempdir())
    for left in below.glob(f"{_PREFIX}*"):
        _remove_if_left(left)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=below))
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_if_left(folder: Path) -> None:
    try:
        if folder.lstat().st_uid != os.getuid():
            return
        with (folder / _LOCK).open("r+") as lock:  # not made yet by one that is just starting
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # in use, or gone meanwhile
        return
