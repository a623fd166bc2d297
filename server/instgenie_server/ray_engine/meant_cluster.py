"""Which Ray cluster is meant. Told without Ray, which reads its environment when it is imported."""

from __future__ import annotations

import os
from pathlib import Path

# By its name for other systems, where Ray's processes listen at loopback alone if it is false. So they do everywhere
# then; there is no other setting: of an address of loopback, `ray.init` makes the machine's own.
_BEYOND_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def meant_cluster(address: str | None) -> str | None:
    """What is to be joined: an address, or one of the words that Ray takes instead. None is nothing: one is started.

    Args:
        address: that was asked for.
    """
    return address or os.environ.get("RAY_ADDRESS") or _started_here()


def keep_to_loopback(address: str | None) -> None:
    """Have a cluster that is started here be reached from this machine alone. Before Ray is imported.

    Where the environment says otherwise, that is left as it is.
    """
    if meant_cluster(address) in (None, "local"):
        os.environ.setdefault(_BEYOND_LOOPBACK, "0")


def _started_here() -> str | None:
    """Address of a cluster that `ray start` made this machine a part of, which may be gone."""
    try:
        return Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster").read_text().strip() or None
    except OSError:
        return None
