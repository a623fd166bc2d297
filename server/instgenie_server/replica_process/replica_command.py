"""How the server starts its replica."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from instgenie_cache.wire.address import Address
from instgenie_server.processes.child_command import ChildCommand
from instgenie_server.settings import CacheSettings, EngineSettings

START_ATTEMPTS = 3
READY_SECONDS = 1800.0  # a large model may come from a slow disk or over the network
STOP_SECONDS = 15.0
# The socket is this server's alone, so nobody fetches a result when it is gone: edits go on only while a connection is
# made again.
ORPHAN_SECONDS = 10.0
FETCH_SECONDS = 5.0
_PREFIX = "INSTGENIE_REPLICA_"
_WRONG_SETTINGS = 2


@dataclass(frozen=True, slots=True)
class Place:
    """Where a replica runs.

    Attributes:
        name: among those of its server.
        device: cpu, cuda or cuda:N; None is the best one.
        threads: of the CPU; None is one per core.
        trace: file for what every step does.
    """

    name: str = "1"
    device: str | None = None
    threads: int | None = None
    trace: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaCommand:
    """What a replica of this machine is told.

    Attributes:
        folder: for its socket and secrets; nobody else may look into it.
        cache_address: of its cache service; None keeps records in its own memory, `host_bytes` of it.
        is_alone: whether it is the only one, and log lines need not tell it from others.
    """

    folder: Path
    engine: EngineSettings
    cache: CacheSettings
    cache_address: Address | None
    host_bytes: int
    place: Place = Place()
    is_alone: bool = True
    log_level: str = "info"

    @property
    def address(self) -> Address:
        """Where it will listen."""
        return Address(path=str(self.folder / f"replica-{self.place.name}.sock"))

    def child(self) -> ChildCommand:
        """How it is run. Writes the secret of the cache service into the folder, where there is one."""
        engine, cache = self.engine, self.cache
        settings = {
            "model": engine.model,
            "dtype": engine.dtype,
            "device": self.place.device,
            "threads": self.place.threads,
            "cache": self.cache_address,
            "cache_secret_name": cache.secret_name,
            "cache_secret_file": self._secret_file(),
            "host_bytes": self.host_bytes,
            "device_bytes": cache.device_bytes,
            "codec": cache.codec,
            "drift": cache.drift,
            "plan": cache.plan,
            "policy": cache.policy,
            "batch_edits": engine.batch_edits,
            "batch_tokens": engine.batch_tokens,
            "compile": "true" if engine.compile else None,
            "trace": self.place.trace,
            "orphan_seconds": ORPHAN_SECONDS,
            "grace_seconds": FETCH_SECONDS,
            "log_level": self.log_level,
            "log_format": "json",
        }
        return ChildCommand(
            name="replica",
            module="instgenie.replica",
            logger="instgenie.replica",
            options=("--listen", str(self.address)),
            settings={f"{_PREFIX}{name.upper()}": str(value) for name, value in settings.items() if value is not None},
            ready_seconds=READY_SECONDS,
            stop_seconds=STOP_SECONDS,
            attempts=START_ATTEMPTS,
            final_codes=frozenset({_WRONG_SETTINGS}),
            labels={} if self.is_alone else {"replica": self.place.name},
        )

    def _secret_file(self) -> Path | None:
        """A file, since the environment of a process can be read by others of its user's processes."""
        if self.cache.secret is None:
            return None
        file = self.folder / "cache-secret"
        file.touch(mode=0o600)
        file.write_text(self.cache.secret.get_secret_value())
        return file
