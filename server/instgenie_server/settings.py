"""Settings of a server: what there is, its defaults and limits. `settings_sources` reads them.

`Settings(...)` takes what it is given and reads no files, and of the environment XDG_CACHE_HOME alone.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationInfo

from instgenie.balancer.policies import PolicyName as BalancerName
from instgenie_cache.default_folder import default_folder
from instgenie_cache.eviction import PolicyName
from instgenie_cache.wire.address import Address
from instgenie_server.fleet.hung import HUNG_SECONDS
from instgenie_server.same_address import canonical

_MB = 1_000_000


def _full_path(path: Path) -> Path:
    """Absolute, so that it stays the same if the server changes its folder; ~ is the home folder."""
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError("the home folder that ~ stands for is not known") from error


def _host(host: str) -> str:
    """An address, IPv6 without its brackets, or a name."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9.])?", host):
            raise ValueError("must be an IP address or a host name, without a port") from None
        return host


def _base_url(url: str) -> str:
    """Without a slash at its end, so that paths can be appended."""
    try:
        parts = urlsplit(url)
        port_is_sane = parts.port is None or parts.port > 0
    except ValueError as error:
        raise ValueError(f"is not a URL: {error}") from error
    is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and port_is_sane
    if not is_web or parts.query or parts.fragment or "@" in parts.netloc or re.search(r"\s", url):
        raise ValueError("must look like https://host or https://host/path")
    return url.rstrip("/?#")


FullPath = Annotated[Path, AfterValidator(_full_path)]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


def _list(value: object) -> object:
    """What is told as text, separated by commas."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _devices(devices: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
    """As torch names them."""
    if not all(re.fullmatch(r"cpu|cuda(:\d{1,3})?", device) for device in devices or ()):
        raise ValueError("must be cpu, cuda or cuda:0, cuda:1 ...; several are separated by commas")
    if info.data.get("replica") == "inline" and len(devices or ()) > 1:
        raise ValueError("must be one where engine.replica is inline: the server's process has one replica")
    return devices


def _replica(replica: str, info: ValidationInfo) -> str:
    """`own`, `inline`, or addresses as a replica's clients take them."""
    if replica != "own" and info.data.get("kind") == "ray":
        raise ValueError("must be own where engine.kind is ray")
    if replica not in ("own", "inline"):
        named: dict[Address, str] = {}
        for part in replica.split(","):
            text = _address(part.strip(), "own, inline", "engine", info)
            address = canonical(Address.parse(text))
            if address in named:
                raise ValueError(f"names one address twice, as {named[address]} and as {text}")
            named[address] = text
    return replica


def _replicas(replicas: int | None, info: ValidationInfo) -> int | None:
    """So many as there can be with the fields before this one."""
    replica, devices = info.data.get("replica", "own"), info.data.get("devices") or ()
    if replica == "inline" and (replicas or 1) > 1:
        raise ValueError("must be 1 where engine.replica is inline: the server's process has one")
    if replica not in ("own", "inline") and replicas is not None:
        raise ValueError("cannot be said where engine.replica is addresses: there are as many as those")
    if replicas is not None and replicas < len(devices):
        raise ValueError(f"must be at least {len(devices)}, the number of devices")
    return replicas


def _cache_service(service: str | None, info: ValidationInfo) -> str | None:
    """`own`, or an address as the cache service's clients take it."""
    if service is None or service == "own":
        return service
    return _address(service, "own, none", "cache", info)


def _address(text: str, words: str, group: str, info: ValidationInfo) -> str:
    """An address; one at a port needs a secret, which fields before this one hold.

    Args:
        words: what the setting may be else.
    """
    try:
        address = Address.parse(text)
    except ValueError as error:
        raise ValueError(f"must be {words} or an address: {error}") from error
    if not address.is_unix and not (info.data.get("secret") and info.data.get("secret_name")):
        raise ValueError(f"needs {group}.secret and {group}.secret_name: who listens at a port asks for them")
    return text


class EngineSettings(_Group):
    """What is served, and on what."""

    model: FullPath | None = Field(
        default=None, description="Model folder in the diffusers format; none is the embedded model."
    )
    kind: Literal["processes", "ray"] = Field(
        default="processes",
        description="processes: replicas of this machine. ray: of a Ray cluster, which needs the extra `ray`.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(default="auto", description="auto measures which is faster.")
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="CPU threads of each replica; none is automatic: one per core, shared out where there are several.",
    )
    batch_edits: int | None = Field(
        default=None, ge=1, le=1024, description="Most edits in a denoising step; none is automatic, by the device."
    )
    batch_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Most tokens that a denoising step computes; none is automatic, by the device. An edit whose first "
        "step needs more, as one that computes all tokens may, is taken only where nothing else runs.",
    )
    compile: bool = Field(
        default=False,
        description="Compile parts of the model, which takes up to a minute at each start; no faster on a CPU.",
    )
    trace: FullPath | None = Field(
        default=None,
        description="File in which the replica notes what every step does, for Perfetto; of several replicas each has "
        "its own, with its number before the suffix. none is off.",
    )
    secret_name: str | None = Field(
        default=None, min_length=1, max_length=64, description="Of the secret, as the replica knows it."
    )
    secret: SecretStr | None = Field(
        default=None, min_length=16, description="That a replica at a port asks for; unix sockets need none."
    )
    replica: Annotated[str, AfterValidator(_replica)] = Field(
        default="own",
        description="own: the server starts a process for it, and again when that ends. inline: in the server's "
        "process. unix:/path or tcp://host:port: that one, which has settings of its own for the model and records; "
        "several are separated by commas.",
    )
    devices: Annotated[tuple[str, ...] | None, BeforeValidator(_list), AfterValidator(_devices)] = Field(
        default=None,
        min_length=1,
        description="cpu, cuda:0 ..., separated by commas: replicas take them in turn; none is automatic: the first "
        "GPU, else the CPU.",
    )
    replicas: Annotated[int | None, AfterValidator(_replicas)] = Field(
        default=None,
        ge=1,
        le=64,
        description="Replicas that the server starts; none is automatic: one for each of the devices.",
    )
    balancer: BalancerName = Field(
        default="finish_time",
        description="Which replica an edit goes to: where it is done first, counting loads and whom it delays; the "
        "others are to compare with.",
    )
    hung_seconds: float = Field(
        default=HUNG_SECONDS,
        gt=0,
        description="Longest that a replica may be at one step, or silent; then another process takes its place. A "
        "step may take 20 times as long as predicted in any case.",
    )
    drain_seconds: float = Field(
        default=600, ge=0, description="Longest that a replica which is renewed (SIGHUP) may finish what it has."
    )
    ray_address: str | None = Field(
        default=None,
        min_length=1,
        description="host:port of a Ray cluster that this machine is part of; none is the one that runs here, or else "
        "one that is started for as long as the server runs.",
    )
    ray_cpus: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="CPUs of a Ray replica; none is automatic: a machine's cores, shared out.",
    )
    ray_gpus: int | None = Field(
        default=None, ge=0, le=1, description="GPUs of a Ray replica; none is 1 where the cluster has any."
    )
    return_seconds: float = Field(
        default=120, gt=0, description="Longest that an edit waits for a replica that is being started again."
    )


class CacheSettings(_Group):
    """Where records are kept."""

    folder: FullPath | None = Field(
        default_factory=default_folder, description="Records on disk; none keeps them in memory alone."
    )
    secret_name: str | None = Field(
        default=None, min_length=1, max_length=64, description="Of the secret, as the cache service knows it."
    )
    secret: SecretStr | None = Field(
        default=None, min_length=16, description="That a cache service at a port asks for; unix sockets need none."
    )
    service: Annotated[str | None, AfterValidator(_cache_service)] = Field(
        default="own",
        description="own: the server starts one, unless one works on the folder already. unix:/path or "
        "tcp://host:port: that one. none: this process's memory alone.",
    )
    host_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Memory for records; none is automatic: half of what is free and not needed for the model.",
    )
    disk_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Disk for records, 0 keeps nothing there; none is automatic: 32 GB, at most a quarter of what is "
        "free, but no less than there is already.",
    )
    device_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Device memory for records; none is automatic: a share of a GPU's free memory, 0 on a CPU.",
    )
    codec: Literal["raw", "int8", "fp8"] = Field(
        default="raw", description="raw keeps what the model computes; int8 and fp8 take half the room of bfloat16."
    )
    drift: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="A step is recorded only where it drifted by more than this, relatively, from the last one that "
        "was, which serves it else; 0 records every step.",
    )
    plan: Literal["auto", "off"] = Field(
        default="auto",
        description="auto computes blocks on all tokens where waiting for their records would take longer, by costs "
        "that are measured at the start, which shows in the picture a little; off always waits.",
    )
    policy: PolicyName = Field(
        default="gdsf", description="What goes first: gdsf weighs cost and popularity by size; lru, lfu."
    )


class LimitSettings(_Group):
    """What one request may ask for, and all of them together."""

    part_bytes: int = Field(default=50 * _MB, ge=1, description="Largest file part of a form.")
    request_bytes: int = Field(default=120 * _MB, ge=1, description="Largest request body.")
    parts: int = Field(default=64, ge=1, description="Most parts of a form.")
    uploads: int = Field(
        default=16, ge=1, description="Most uploads read at the same time, half of them of one caller; others wait."
    )
    upload_seconds: float = Field(default=60, gt=0, description="Longest that a client may take to send its body.")
    idle_seconds: float = Field(default=10, gt=0, description="Longest that nothing of a body may arrive.")
    unread_seconds: float = Field(default=30, gt=0, description="Longest that a client may keep its window shut.")
    pixel_bytes: int = Field(
        default=1_000 * _MB,
        ge=1,
        description="Memory for the pictures of edits whose clients wait, and as much again for asynchronous ones that "
        "run.",
    )
    running_jobs: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Asynchronous edits on all replicas at the same time; others wait. none is automatic: 16 for each "
        "replica.",
    )
    decode_seconds: float = Field(default=20, gt=0, description="Longest that decoding one picture may take.")
    queue_seconds: float = Field(
        default=120, gt=0, description="Predicted work that may wait for each replica; beyond it requests get a 429."
    )
    requests_per_minute: int | None = Field(default=None, ge=1, description="Per API key; none is no limit.")
    deadline_seconds: float = Field(
        default=600, gt=0, description="Longest that a client may wait for an edit; asynchronous ones end by their own."
    )


class RetentionSettings(_Group):
    """How long finished jobs and their pictures are kept."""

    age_seconds: float = Field(default=86_400, gt=0, description="Since the job's end.")
    bytes: int = Field(
        default=4_000 * _MB, ge=0, description="Of inputs and results; the oldest finished jobs go first."
    )
    jobs: int = Field(default=20_000, ge=0, description="Finished jobs; the oldest go first.")
    sweep_seconds: float = Field(default=60, gt=0, description="Time between sweeps.")


class AuthSettings(_Group):
    """Who may call."""

    required: bool | None = Field(
        default=None, description="none is automatic: where the server is bound beyond loopback."
    )
    failures_per_minute: int = Field(
        default=30, ge=1, description="Wrong keys that one address may try; beyond it only keys known as right pass."
    )
    url_secret: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Signs the addresses of results; without it one is made at start, and ends with the server.",
    )
    url_seconds: float = Field(default=3600, gt=0, description="How long a signed address of a result is good.")


class LogSettings(_Group):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The least that is told.")
    format: Literal["auto", "json", "text"] = Field(
        default="auto", description="auto: text on a terminal, else JSON lines."
    )


class Settings(_Group):
    """All settings."""

    host: Annotated[str, AfterValidator(_host)] = Field(
        default="127.0.0.1", description="Where to listen. Beyond this machine, API keys are needed."
    )
    port: int = Field(default=8731, ge=0, le=65_535, description="0 takes a free one.")
    data_dir: FullPath = Field(
        default=Path("~/.local/share/instgenie"), description="Jobs, pictures and keys are kept here."
    )
    public_url: Annotated[str, AfterValidator(_base_url)] | None = Field(
        default=None,
        description="How clients reach the server, for addresses in its replies; none is automatic: as they did.",
    )
    engine: EngineSettings = EngineSettings()
    cache: CacheSettings = Field(default_factory=CacheSettings)  # at each start: its folder follows the environment
    limits: LimitSettings = LimitSettings()
    retention: RetentionSettings = RetentionSettings()
    auth: AuthSettings = AuthSettings()
    log: LogSettings = LogSettings()
