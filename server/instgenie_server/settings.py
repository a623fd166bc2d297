"""Settings of a server: defaults < TOML file < environment (INSTGENIE_...) < flags; an unknown key is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

_MB = 1_000_000


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineSettings(_Group):
    """What is served, and on what."""

    model: Path | None = Field(
        default=None, description="Model folder in the diffusers format; none is the embedded model."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(default="auto", description="auto measures which is faster.")
    threads: int | None = Field(default=None, ge=1, le=1024, description="CPU threads; none is one per core.")
    cache_bytes: int | None = Field(default=None, ge=0, description="Memory for records; none is half of what is free.")


class LimitSettings(_Group):
    """What one request may ask for, and all of them together."""

    part_bytes: int = Field(default=50 * _MB, ge=1, description="Largest file part of a form.")
    request_bytes: int = Field(default=120 * _MB, ge=1, description="Largest request body.")
    parts: int = Field(default=64, ge=1, description="Most parts of a form.")
    uploads: int = Field(
        default=16, ge=1, description="Most uploads read at the same time; others wait for their turn."
    )
    upload_seconds: float = Field(default=60, gt=0, description="Longest that a client may take to send its body.")
    decode_seconds: float = Field(default=20, gt=0, description="Longest that decoding one picture may take.")
    queue_seconds: float = Field(
        default=120, gt=0, description="Predicted work that may wait; beyond it requests get a 429."
    )
    requests_per_minute: int | None = Field(default=None, ge=1, description="Per API key; none is no limit.")
    deadline_seconds: float = Field(default=600, gt=0, description="Longest that an edit may take from its arrival.")


class RetentionSettings(_Group):
    """How long finished jobs and their pictures are kept."""

    age_seconds: float = Field(default=86_400, gt=0)
    bytes: int = Field(
        default=4_000 * _MB, ge=0, description="Of inputs and results; the oldest finished jobs go first."
    )
    sweep_seconds: float = Field(default=60, gt=0, description="Time between sweeps.")


class AuthSettings(_Group):
    """Who may call."""

    required: bool | None = Field(default=None, description="none: only where the server is bound beyond loopback.")
    url_secret: SecretStr | None = Field(
        default=None, description="Signs the addresses of results; none is made at start."
    )


class LogSettings(_Group):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = Field(
        default="auto", description="auto: text on a terminal, else JSON lines."
    )


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(
        env_prefix="INSTGENIE_", env_nested_delimiter="__", extra="forbid", frozen=True, toml_file=None
    )

    host: str = "127.0.0.1"
    port: int = Field(default=8731, ge=0, le=65_535, description="0 takes a free one.")
    data_dir: Path = Field(
        default=Path("~/.local/share/instgenie"), description="Jobs, pictures and keys are kept here."
    )
    public_url: str | None = Field(
        default=None, description="How clients reach the server, for addresses in its replies."
    )
    engine: EngineSettings = EngineSettings()
    limits: LimitSettings = LimitSettings()
    retention: RetentionSettings = RetentionSettings()
    auth: AuthSettings = AuthSettings()
    log: LogSettings = LogSettings()
