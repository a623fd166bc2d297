"""Where records are kept, and how many, unless somebody says otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from instgenie_cache.machine import free_disk_bytes

MAX_DEFAULT_DISK_BYTES = 32_000_000_000
_DEFAULT_SHARE = 4  # a quarter of what is free
_DATA_NAME = "data.mdb"  # LMDB's


def default_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """`$XDG_CACHE_HOME/instgenie/records`, or the same below `~/.cache`; ~ is not expanded."""
    base = Path(environ.get("XDG_CACHE_HOME", ""))
    # A relative path is to be ignored, as the XDG specification has it.
    return (base if base.is_absolute() else Path("~/.cache")) / "instgenie" / "records"


def default_disk_bytes(folder: Path) -> int:
    """32 GB, but at most a quarter of what is free; never less than what is there: a default evicts nothing."""
    try:
        stored_bytes = (folder / _DATA_NAME).stat().st_size
    except OSError:
        stored_bytes = 0
    return max(stored_bytes, min(MAX_DEFAULT_DISK_BYTES, (free_disk_bytes(folder) + stored_bytes) // _DEFAULT_SHARE))
