"""How the server starts its cache service."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from instgenie_cache.eviction import PolicyName

_SERVER_PREFIX = "INSTGENIE_"
_SERVICE_PREFIX = "INSTGENIE_CACHE_"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceCommand:
    """Program, arguments and environment of a service of this machine.

    Attributes:
        host_bytes, disk_bytes: budgets of memory and disk.
    """

    folder: Path
    socket: Path
    host_bytes: int
    disk_bytes: int
    policy: PolicyName = "gdsf"
    log_level: str = "info"

    def arguments(self) -> Sequence[str]:
        """With -P, so that nothing is imported from the folder that the server was started in."""
        return (sys.executable, "-P", "-m", "instgenie_server.record_cache.child")

    def environment(self, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
        """This process's, but for its own settings, and those of the service."""
        kept = {name: value for name, value in environ.items() if not name.upper().startswith(_SERVER_PREFIX)}
        settings = {
            "folder": self.folder,
            "socket": self.socket,
            "host_bytes": self.host_bytes,
            "disk_bytes": self.disk_bytes,
            "host_policy": self.policy,
            "disk_policy": self.policy,
            "log_level": self.log_level,
            "log_format": "json",
        }
        return kept | {f"{_SERVICE_PREFIX}{name.upper()}": str(value) for name, value in settings.items()}
