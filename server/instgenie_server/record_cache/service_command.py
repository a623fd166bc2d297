"""How the server starts its cache service."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from instgenie_cache.eviction import PolicyName
from instgenie_server.processes.child_command import ChildCommand

START_ATTEMPTS = 5  # about seven seconds: as long as another process may work on the folder for one edit
READY_SECONDS = 30.0
STOP_SECONDS = 60.0  # records are flushed
_PREFIX = "INSTGENIE_CACHE_"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceCommand:
    """Settings of a cache service of this machine.

    Attributes:
        host_bytes, disk_bytes: budgets of memory and disk.
    """

    folder: Path
    socket: Path
    host_bytes: int
    disk_bytes: int
    policy: PolicyName = "gdsf"
    log_level: str = "info"

    def child(self) -> ChildCommand:
        """How it is run."""
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
        return ChildCommand(
            name="cache service",
            module="instgenie_cache",
            logger="instgenie_cache",
            settings={f"{_PREFIX}{name.upper()}": str(value) for name, value in settings.items()},
            ready_seconds=READY_SECONDS,
            stop_seconds=STOP_SECONDS,
            attempts=START_ATTEMPTS,
        )
