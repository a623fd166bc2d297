"""Settings of a replica process. `__main__` reads them from flags and the environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from instgenie.replica.service_limits import ServiceLimits
from instgenie_cache.eviction import PolicyName
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.handshake import SharedSecret


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSettings:
    """What is served, where, and with which records.

    Attributes:
        secret: that front ends at a TCP address have to prove.
        model: folder in the diffusers format; None is the embedded model.
        device: cpu, cuda or cuda:N; None is this machine's best one.
        threads: of the CPU; None is one per core.
        cache: a cache service's address; None keeps records in this process's memory.
        cache_secret: that the cache service asks for, over TCP.
        host_bytes: of that memory; None is half of what is free once the model is loaded.
        device_bytes, codec, drift, policy: of records, as for `Editor`.
        plan: whether steps are planned by measured costs.
        batch_edits, batch_tokens: most edits in a step, and tokens that it computes; None suits the device.
        compile: whether parts of the model are compiled.
        trace: file that steps are noted in.
        grace_seconds: at the end, for front ends to fetch what they have not.
    """

    listen: tuple[Address, ...]
    socket_mode: int = 0o600
    secret: SharedSecret | None = None
    model: Path | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str | None = None
    threads: int | None = None
    cache: Address | None = None
    cache_secret: SharedSecret | None = None
    host_bytes: int | None = None
    device_bytes: int | None = None
    codec: Literal["raw", "int8", "fp8"] = "raw"
    drift: float = 0.0
    plan: Literal["auto", "off"] = "auto"
    policy: PolicyName = "gdsf"
    batch_edits: int | None = None
    batch_tokens: int | None = None
    compile: bool = False
    trace: Path | None = None
    grace_seconds: float = 30.0
    limits: ServiceLimits = field(default_factory=ServiceLimits)
