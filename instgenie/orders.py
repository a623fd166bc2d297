"""What travels between a front end and a replica: plain data, no tensors, importable without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from instgenie.fidelity import DEFAULT_HALO, DEFAULT_STEP_CACHE, MeasuredSetting

CachePolicy = Literal["auto", "only", "off"]
OutputFormat = Literal["png", "webp", "jpeg"]
ServingTier = Literal["device", "host", "disk", "object"]  # where a template's records were


@dataclass(frozen=True, slots=True)
class Pixels:
    """A decoded picture: `data` is height x width x len(mode) bytes in raster order, mode RGB or RGBA."""

    width: int
    height: int
    mode: Literal["RGB", "RGBA"]
    data: bytes
    icc_profile: bytes | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """How a result is encoded.

    Attributes:
        quality: of a JPEG or WebP, 0..100; a WebP of 100 is lossless, as a PNG always is.
        size: width and height that the result is scaled to; None keeps the upload's.
    """

    format: OutputFormat = "png"
    quality: int = 100
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EditOrder:
    """One edit. Fields of the same name mean what they mean in `EditRequest`.

    Attributes:
        mask: the mask's bits, row by row, each pixel one byte of 0 or 1: height x width bytes.
        cache: auto: use the template's records, make them if they are not there. only: fail where they are not. off:
            compute every token.
        crop: whether a picture larger than the model's canvas is edited in a window round the mask.
        previews: how many pictures on the way are reported.
        priority: of a tenant's edits that wait, larger goes first, and waiting adds to it.
        namespace: the tenant: its records serve nobody else, and tenants share the device evenly.
        deadline_seconds: from the order's arrival; an edit that cannot be done by then is given up. None has no end.
    """

    id: str
    picture: Pixels
    mask: bytes
    prompt: str
    seed: int
    steps: int | None = None
    guidance: float | None = None
    strength: float = 1.0
    halo: int = DEFAULT_HALO
    refreshes: int | None = None
    step_cache: int = DEFAULT_STEP_CACHE
    feather: int = 0
    template_prompt: str = ""
    template_seed: int = 0
    cache: CachePolicy = "auto"
    crop: bool = True
    previews: int = 0
    output: Output = Output()
    priority: int = 0
    namespace: str = ""
    deadline_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class StepReport:
    """Told before the first step and after each one; `preview` is a file in the order's format, at chosen steps."""

    step: int
    steps: int
    preview: bytes | None = None


@dataclass(frozen=True, slots=True)
class PhaseTimings:
    """Milliseconds of an edit by phase, and what it computed, as in `EditTimings`.

    Attributes:
        queue_ms: not in any phase: waiting for its turn.
        stall_ms: of `denoise_ms`, waiting for records.
        steps: that were taken, extrapolated ones included.
        batch: edits in a step of this one, itself included, on average.
    """

    queue_ms: float
    encode_ms: float
    record_ms: float
    denoise_ms: float
    decode_ms: float
    cache: Literal["hit", "cold", "partial", "refused", "off"]
    steps: int
    dense_steps: int
    tokens_active: int
    tokens_total: int
    tier: ServingTier | None = None
    stall_ms: float = 0.0
    batch: float = 1.0
    refreshes: int = 0
    extrapolated_steps: int = 0


@dataclass(frozen=True, slots=True)
class EditOutcome:
    """A finished edit; `image` is the file."""

    image: bytes
    width: int
    height: int
    timings: PhaseTimings


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmOrder:
    """Templates to record. Fields mean what they mean in `WarmRequest`."""

    id: str
    picture: Pixels
    boxes: tuple[tuple[int, int, int, int], ...] | None = None
    max_windows: int = 64
    steps: int | None = None
    guidance: float | None = None
    template_prompt: str = ""
    template_seed: int = 0
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class WarmReport:
    """One window of a `WarmOrder`, as in `WarmedWindow`."""

    number: int
    windows: int
    box: tuple[int, int, int, int]
    key: str
    num_bytes: int
    outcome: Literal["hit", "cold", "refused"]


@dataclass(frozen=True, slots=True)
class HeldTemplate:
    """What a replica has of a template.

    Attributes:
        num_bytes: of its records; None where the cache does not hold all of them.
        hits: edits that were served from its records, counted from when it was warmed; 0 where it never was.
    """

    num_bytes: int | None
    hits: int


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a replica serves: its defaults and limits.

    Attributes:
        guidance: default scale; `distilled` says that it is an input of the model, not a second pass.
        canvas_pixels: side of the square that the model works best at.
        patch: side in pixels of the square that a token covers.
        text_tokens: of a pass; 0 where that is not known.
        step_bytes: that the records of one step of a whole canvas take where they are stored; 0 where that is not
            known. With drift, templates have fewer of them than steps: then it is the most that a step may need.
        batch_edits, batch_tokens: most edits in a step, and most tokens that it computes; 0 where that is not known.
        measured: how close edits come to dense ones by halo and refreshes; empty where nobody measured that.
        draws: as in `ModelSettings`.
    """

    name: str
    revision: str
    dtype: str
    device: str
    steps: int
    guidance: float
    distilled: bool
    canvas_pixels: int
    patch: int
    text_tokens: int = 0
    step_bytes: int = 0
    batch_edits: int = 0
    batch_tokens: int = 0
    measured: tuple[MeasuredSetting, ...] = ()
    draws: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplicaStats:
    """What a replica does just now, and did since it began.

    Attributes:
        waiting: edits that were accepted and are in no step yet.
        running: edits in the running batch.
        finishing: edits whose steps are done and whose picture is not.
        lanes: templates that are being recorded.
        tokens: image and text tokens that the last step computed, over all passes.
        steps: steps run, each of the whole batch.
        edit_steps: of single edits, those that were computed: `edit_steps / steps` is the mean batch.
        step_age_seconds: since what the device is at just now began: a step, encoding or decoding; 0 where it has
            nothing to do. One that is much longer at it than `busy_seconds / steps`, and than anything may take, hangs:
            the process answers nevertheless.
        busy_seconds: that steps took.
        stall_seconds: of them, waiting for records.
        done, failed, cancelled, expired: edits by their end.
    """

    waiting: int = 0
    running: int = 0
    finishing: int = 0
    lanes: int = 0
    tokens: int = 0
    steps: int = 0
    edit_steps: int = 0
    step_age_seconds: float = 0.0
    busy_seconds: float = 0.0
    stall_seconds: float = 0.0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0


class Replica(Protocol):
    """One device that edits. All methods belong to one event loop; cancelling a call cancels the work at the next step.

    What `pin`, `unpin`, `forget` and `held` ask is done in the order of the calls, beside edits; a cache that hangs
    keeps them waiting.

    Errors of the order raise `InvalidInputError`; `TemplateNotCachedError` where records are required and not there;
    `DeadlineError` where its deadline passed; everything else that fails raises `ReplicaError`.
    """

    @property
    def model(self) -> ModelCard:
        """What is served."""
        ...

    def predicted_seconds(self, order: EditOrder) -> float:
        """How long the device will be busy with the order."""
        ...

    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        """Run the edit; `report` is called on the loop."""
        ...

    async def warm(self, order: WarmOrder, report: Callable[[WarmReport], None]) -> None:
        """Record templates; `report` is called on the loop after each window, and waiting edits go between two."""
        ...

    async def pin(self, keys: Iterable[str]) -> int:
        """Keep templates, by key, from being evicted; how many of them are there. Pinning twice is pinning once."""
        ...

    async def unpin(self, keys: Iterable[str]) -> None:
        """Let templates be evicted again."""
        ...

    async def forget(self, keys: Iterable[str]) -> None:
        """Drop the records of templates, pinned ones too; edits that use them go on."""
        ...

    async def held(self, keys: Iterable[str]) -> dict[str, HeldTemplate]:
        """What is there of each of these templates, by key. Asking is no use of them."""
        ...

    async def stats(self) -> ReplicaStats:
        """What it does just now."""
        ...

    async def drain(self) -> None:
        """Take no more orders, which are refused with `ReplicaError`, and wait until all that were taken are done."""
        ...

    async def close(self) -> None:
        """Stop: what runs is given up at its next step, what waits fails."""
        ...
