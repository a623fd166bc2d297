"""Settings of the service: what there is, its defaults and limits. `service_settings_sources` reads them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ByteSize, ConfigDict, Field, SecretStr, model_validator

from instgenie_cache.default_folder import default_disk_bytes, default_folder
from instgenie_cache.eviction import PolicyName
from instgenie_cache.machine import memory_bytes
from instgenie_cache.open_store import socket_of
from instgenie_cache.tiers.disk_tier import SyncPolicy
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.handshake import SharedSecret


def _full_path(path: Path) -> Path:
    """Absolute; ~ is the home folder."""
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError("the home folder that ~ stands for is not known") from error


def _octal(mode: str) -> str:
    if not (mode.isdecimal() and len(mode) in (3, 4) and set(mode) <= set("01234567")):
        raise ValueError("must be a file mode of octal digits, such as 0600")
    return mode


def _tcp(text: str) -> str:
    if Address.parse(text).is_unix:
        raise ValueError("must be host:port")
    return text


FullPath = Annotated[Path, AfterValidator(_full_path)]


class _Model(BaseModel):
    # Errors that show what they were given would show secrets.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True, hide_input_in_errors=True
    )


class SecretSettings(_Model):
    """A secret that clients share with the service, here or in a file of its own."""

    name: str = Field(description="Which one it is, for clients; no secret itself.")
    secret: SecretStr | None = Field(default=None, description="At least 16 bytes.")
    secret_file: FullPath | None = Field(default=None, description="Where it is, without the end of its line.")
    namespace: str | None = Field(default=None, description="All that its clients see; none is everything.")

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.secret is None) == (self.secret_file is None):
            raise ValueError(f"secret {self.name!r} must have either `secret` or `secret_file`")
        return self

    def shared(self) -> SharedSecret:
        """As the handshake takes it.

        Raises:
            ValueError: the file cannot be read, or it is no good secret.
        """
        if self.secret is not None:
            return SharedSecret(self.name, self.secret.get_secret_value().encode(), self.namespace)
        assert self.secret_file is not None
        try:
            content = self.secret_file.read_bytes()
        except OSError as error:
            raise ValueError(f"{self.secret_file} cannot be read: {error.strerror}") from error
        return SharedSecret(self.name, content.rstrip(b"\r\n"), self.namespace)


def _default_disk_bytes(known: dict[str, Any]) -> ByteSize:
    return ByteSize(default_disk_bytes(known["folder"]))


def _default_socket(known: dict[str, Any]) -> Path:
    folder: Path = known["folder"]
    return socket_of(folder)


class ServiceSettings(_Model):
    """All settings. Sizes are bytes, or text such as 16GB or 512MiB."""

    folder: FullPath = Field(default_factory=default_folder, description="Where the disk tier and the socket are.")
    host_bytes: ByteSize = Field(
        default_factory=lambda: ByteSize(memory_bytes() // 4),
        ge=2 << 20,
        description="Memory for records; by default a quarter of the machine's.",
    )
    disk_bytes: ByteSize = Field(
        default_factory=_default_disk_bytes,
        ge=0,
        description="Disk for records, 0 keeps none there; by default 32 GB, at most a quarter of what is free, but no "
        "less than there is already.",
    )
    warm_start: bool = Field(
        default=True, description="Bring the newest templates into memory at the start, as far as half of it goes."
    )
    host_policy: PolicyName = Field(default="gdsf", description="How the host tier evicts: gdsf, lfu or lru.")
    disk_policy: PolicyName = Field(default="gdsf", description="How the disk tier evicts: gdsf, lfu or lru.")
    sync: SyncPolicy = Field(
        default="commit",
        description="When the system is told to bring what was written to the disk itself, for a power cut. commit: at "
        "each commit. interval: every sync_seconds. never: when the service ends.",
    )
    sync_seconds: float = Field(
        default=5, gt=0, le=3600, description="From one sync to the next where sync is interval."
    )
    object_url: str | None = Field(
        default=None, description="An object store below the disk, such as s3://bucket; none is no store."
    )
    socket: FullPath = Field(
        default_factory=_default_socket,
        description="Unix socket; by default cache.sock in the folder.",
    )
    socket_mode: Annotated[str, AfterValidator(_octal)] = Field(
        default="0600", description="Who may connect to the Unix socket: there is no other check."
    )
    tcp: Annotated[str, AfterValidator(_tcp)] | None = Field(
        default=None, description="host:port to listen at, too, which takes secrets; none is no port."
    )
    secrets: tuple[SecretSettings, ...] = Field(default=(), description="Of clients that come over TCP.")
    max_connections: int = Field(default=256, ge=1, le=10_000, description="Clients at a time.")
    credit_bytes: ByteSize = Field(
        default=ByteSize(128 << 20), ge=1 << 16, description="Payload that a client may have on its way, unanswered."
    )
    idle_seconds: float = Field(
        default=60, gt=0, le=86_400, description="After which a template that nothing more is put to is given up."
    )
    metrics_port: int | None = Field(
        default=None, ge=0, le=65_535, description="For Prometheus, at the loopback address; none is no port."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least that is told."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="auto: text on a terminal, else JSON lines."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        Address.parse(os.fspath(self.socket))
        names = [secret.name for secret in self.secrets]
        if len(set(names)) < len(names):
            raise ValueError("two secrets have the same name")
        if self.tcp is not None and not self.secrets:
            raise ValueError("tcp needs secrets: whoever reaches the port could read and write everything")
        self.shared_secrets()
        return self

    def shared_secrets(self) -> dict[str, SharedSecret]:
        """Secrets by name.

        Raises:
            ValueError: a file of one cannot be read, or it is no good secret.
        """
        return {secret.name: secret.shared() for secret in self.secrets}

    @property
    def mode(self) -> int:
        """`socket_mode` as the system takes it."""
        return int(self.socket_mode, 8)
