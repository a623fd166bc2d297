"""What becomes of a data file that LMDB can no longer work on: it is marked, and set aside at the next start."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

from instgenie_cache.errors import CacheError
from instgenie_cache.tiers.disk_env import DATA_NAME

_MARK_NAME = "broken"
_MAX_REASON_CHARACTERS = 1000

_log = logging.getLogger(__name__)


def mark_broken(folder: Path, why: str) -> None:
    """Have the file set aside at the next start; what can be read of it is read until then.

    Raises:
        CacheError: the mark cannot be written.
    """
    mark = folder / _MARK_NAME
    try:
        if not mark.exists():
            mark.write_text(why[:_MAX_REASON_CHARACTERS], errors="replace")
            _log.error("%s is broken, and the next start sets it aside: %s", folder / DATA_NAME, why)
    except OSError as error:
        raise CacheError(f"{mark} cannot be written: {error.strerror or error}") from error


def why_marked(folder: Path) -> str | None:
    """Why the file is to be set aside; None where it is not.

    Raises:
        CacheError: it cannot be told.
    """
    mark = folder / _MARK_NAME
    try:
        return mark.read_text(errors="replace") or "it was found broken"
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CacheError(f"{mark} cannot be read: {error.strerror or error}") from error


def set_aside(folder: Path, why: str) -> None:
    """Rename the data file, if there is one, to `data.mdb.broken-<time>`, so that the next start is a fresh one.

    No older one is kept.

    Raises:
        CacheError: it cannot be renamed.
    """
    data = folder / DATA_NAME
    aside = folder / f"{DATA_NAME}.broken-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    try:
        if data.exists():
            for older in folder.glob(f"{DATA_NAME}.broken-*"):
                older.unlink()
            data.rename(aside)
            _log.error("%s is broken (%s): it is now %s, and the disk tier starts empty", data, why, aside.name)
        (folder / "lock.mdb").unlink(missing_ok=True)
        (folder / _MARK_NAME).unlink(missing_ok=True)
    except OSError as error:
        raise CacheError(f"{data} is broken ({why}) and cannot be renamed: {error.strerror or error}") from error
