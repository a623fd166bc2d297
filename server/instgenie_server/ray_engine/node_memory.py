"""How much of a machine's memory its records get, as far as can be told before its replicas have loaded."""

from __future__ import annotations

from pathlib import Path

from instgenie_server.record_cache.store import memory_for_records
from instgenie_server.replica_process.weight_bytes import weight_bytes
from instgenie_server.settings import CacheSettings


def bytes_for_records(cache: CacheSettings, model: Path, replicas: int) -> int:
    """For all replicas of the machine, of which each holds the model."""
    return memory_for_records(cache, spoken_for_bytes=replicas * weight_bytes(model))
