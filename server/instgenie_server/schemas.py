"""Replies as clients see them; `/openapi.json` is generated from these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from instgenie.fidelity import CHOSEN_SETTINGS
from instgenie_server.jobs.job import JobState


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorFields(_Reply):
    """What went wrong."""

    message: str
    type: str = Field(description="invalid_request_error, authentication_error, rate_limit_error or server_error")
    param: str | None = Field(default=None, description="the request's field that is at fault")
    code: str | None = Field(default=None, description="a word that programs can go by")


class ErrorReply(_Reply):
    """Every error has this form."""

    error: ErrorFields


class ImageData(_Reply):
    """One picture, in the form that `response_format` asked for."""

    b64_json: str | None = None
    url: str | None = None


class Usage(_Reply):
    """What an edit computed, in image tokens of one pass."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: dict[str, int] = Field(default_factory=dict)


class ImagesReply(_Reply):
    """The reply of `POST /v1/images/edits`."""

    created: int = Field(description="seconds since 1970")
    data: list[ImageData]
    output_format: Literal["png", "webp", "jpeg"]
    size: str
    usage: Usage


class ImageEvent(_Reply):
    """One event of a streamed edit."""

    type: Literal["image_edit.partial_image", "image_edit.completed"]
    b64_json: str
    created_at: int
    output_format: Literal["png", "webp", "jpeg"]
    size: str
    background: Literal["opaque", "transparent", "auto"] = "auto"
    quality: str = "auto"
    partial_image_index: int | None = None
    usage: Usage | None = None


class ChosenFidelity(_Reply):
    """What `fidelity` of an edit chose."""

    dense: bool = Field(description="all tokens are computed")
    halo: int | None = None
    refreshes: int | None = None
    step_cache: int | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> ChosenFidelity:
        """What the settings of an edit's form say once `fidelity` has chosen them."""
        if settings["cache"] == "off":
            return cls(dense=True)
        return cls(dense=False, **{name: settings.get(name) for name in CHOSEN_SETTINGS})


class JobReply(_Reply):
    """An asynchronous edit."""

    id: str
    object: Literal["edit"] = "edit"
    status: JobState
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    position: int | None = Field(default=None, description="while it is queued; 1 is the next one")
    step: int | None = None
    steps: int | None = None
    seed: int
    cache: str | None = Field(default=None, description="hit, cold, partial, refused or off")
    tier: str | None = Field(
        default=None, description="where the records were: device, host, disk or object; null where it was no hit"
    )
    fidelity: ChosenFidelity | None = Field(default=None, description="what `fidelity` chose, where it was given")
    timings: dict[str, Any] | None = Field(default=None, description="milliseconds by phase, and what was computed")
    image_url: str | None = Field(default=None, description="where the result is, once it is done")
    error: ErrorFields | None = None


class JobList(_Reply):
    """A page of edits, newest first."""

    object: Literal["list"] = "list"
    data: list[JobReply]
    has_more: bool
    next: str | None = Field(default=None, description="give it as `after` for the next page")


class TemplateReply(_Reply):
    """A template that was uploaded to be recorded."""

    id: str
    object: Literal["template"] = "template"
    status: Literal["queued", "warming", "warm", "evicted", "failed"] = Field(
        description="evicted: it was warm, and records of it are gone; uploaded again, or pinned, it is recorded again"
    )
    created_at: float
    width: int
    height: int
    windows: int | None = Field(default=None, description="parts of the picture that are recorded, once known")
    windows_done: int = Field(default=0, description="of which the records are there")
    num_bytes: int = Field(default=0, description="of the records that are there")
    tiers: dict[str, int] = Field(
        default={},
        description="bytes of the records by where they are; host: the server's memory, service: the "
        "cache service's memory or disk",
    )
    hits: int = Field(default=0, description="edits that were served from the records, since it was warmed")
    pinned: bool = Field(default=False, description="its records are not evicted; while it is warmed: will not be")
    error: ErrorFields | None = None


class TemplateList(_Reply):
    """All templates of a tenant, newest first."""

    object: Literal["list"] = "list"
    data: list[TemplateReply]


class MeasuredFidelity(_Reply):
    """How close edits come to dense ones with a halo, a number of refreshes and a step cache."""

    halo: int
    refreshes: int
    step_cache: int
    steps: int = Field(description="Of the edits that were measured.")
    psnr_db: float = Field(description="That nine edits of ten reach inside the mask.")
    cost: float = Field(description="Tokens computed, as a share of the dense edit's.")


class ModelReply(_Reply):
    """A model with its defaults and limits."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "instgenie"
    revision: str
    dtype: str
    device: str
    defaults: dict[str, Any]
    fidelity: list[MeasuredFidelity] = Field(description="What `fidelity` of an edit chooses from.")
    draws: list[str] = Field(
        description="Names of what it can draw, if it was trained on a short list of things; empty if it was not."
    )
    limits: dict[str, Any]


class ModelList(_Reply):
    """The models that are served."""

    object: Literal["list"] = "list"
    data: list[ModelReply]


class ReplicaCounts(_Reply):
    """How many replicas there are."""

    ready: int = Field(description="that take edits")
    all: int


class HealthReply(_Reply):
    """Whether the server lives, or is ready."""

    status: Literal["ok", "starting", "draining"]
    version: str
    replicas: ReplicaCounts | None = Field(default=None, description="once one of them was there")


class A1111Reply(_Reply):
    """The reply of `POST /sdapi/v1/img2img`."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


class A1111Progress(_Reply):
    """The reply of `GET /sdapi/v1/progress`."""

    progress: float
    eta_relative: float
    state: dict[str, Any]
    current_image: str | None = None
    textinfo: str | None = None
