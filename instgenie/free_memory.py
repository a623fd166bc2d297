"""How much memory this process may take. Importable without torch."""

from __future__ import annotations

import os
from pathlib import Path


def available_memory_bytes(root: Path = Path("/")) -> int:
    """Memory that can be taken without swapping: the machine's, or that of a control group of ours if it is less.

    Linux, control groups of version 2. Page cache that the kernel would drop counts as available.

    Args:
        root: where /proc and /sys are.
    """
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = root / "proc/meminfo"
    if meminfo.exists():
        available = min(available, _fields(meminfo)["MemAvailable:"] << 10)
    mount = root / "sys/fs/cgroup"
    for group in _own_groups(root / "proc/self/cgroup", mount):
        try:
            limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
            idle_cache = _fields(group / "memory.stat").get("inactive_file", 0)
        except OSError:  # the root group has no limits
            continue
        if limit != "max":
            available = min(available, max(0, int(limit) - max(0, int(used) - idle_cache)))
    return available


def _own_groups(listing: Path, mount: Path) -> list[Path]:
    """This process's control group and those that it lies in: each one's limit holds."""
    lines = listing.read_text().splitlines() if listing.exists() else []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    group = mount / own
    return [group, *(parent for parent in group.parents if parent.is_relative_to(mount))]


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name and a number, as the kernel writes them."""
    return {words[0]: int(words[1]) for line in path.read_text().splitlines() if len(words := line.split()) > 1}
