"""How much memory and disk there is, for defaults."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container, as it sees itself


def memory_bytes(cgroup_limit: Path = _CGROUP_LIMIT) -> int:
    """Memory of the machine, or of the container where that may use less."""
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine_bytes, int(cgroup_limit.read_text()))
    except (OSError, ValueError):  # not in a container, or "max"
        return machine_bytes


def free_disk_bytes(folder: Path) -> int:
    """What may still be written where the folder is, or will be made; 0 where that cannot be said."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return 0
