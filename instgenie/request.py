"""What is asked for and what is given back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

from instgenie.errors import MaskError, ParameterError
from instgenie.flow import MAX_STEPS
from instgenie.mask import Mask

MAX_PROMPT_CHARS = 32_000
MAX_HALO_TOKENS = 64
MAX_FEATHER_PIXELS = 256
MAX_GUIDANCE = 100.0
MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditRequest:
    """One masked edit.

    Attributes:
        picture: the upload, RGB or RGBA.
        mask: [H, W] bool of the picture's size, True where it is edited.
        seed: of the noise under the mask. The template's own noise is fixed by `template_seed`, so that edits with
            different seeds share the template's records.
        steps, guidance: None takes the model's own.
        strength: share of the schedule that is run, 0 < strength <= 1; below 1 the edit starts from the picture.
        halo: tokens computed around the masked ones.
        feather: width in pixels of the blend inside the mask's border.
        cached: compute masked tokens with the template's records; False computes all tokens (dense).

    Raises:
        ParameterError: a value outside its limits; the message names both.
        MaskError: the mask selects nothing.
    """

    picture: Image.Image
    mask: Mask
    prompt: str
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    strength: float = 1.0
    halo: int = 1
    feather: int = 0
    template_seed: int = 0
    template_prompt: str = ""
    cached: bool = True

    def __post_init__(self) -> None:
        if self.mask.shape != (self.picture.height, self.picture.width):
            theirs, ours = self.mask.shape[::-1], self.picture.size
            raise ParameterError("mask", f"{theirs[0]}x{theirs[1]} pixels, the picture has {ours[0]}x{ours[1]}")
        if not self.mask.any():
            raise MaskError("mask", "is empty: it selects no pixel")
        for name, text in (("prompt", self.prompt), ("template_prompt", self.template_prompt)):
            if len(text) > MAX_PROMPT_CHARS:
                raise ParameterError(name, f"{len(text)} characters are more than {MAX_PROMPT_CHARS}")
        if self.steps is not None:
            _check_range("steps", self.steps, 1, MAX_STEPS)
        if not 0 < self.strength <= 1:
            raise ParameterError("strength", f"{self.strength} is not in 0 < strength <= 1")
        _check_range("seed", self.seed, 0, MAX_SEED)
        _check_range("template_seed", self.template_seed, 0, MAX_SEED)
        _check_range("halo", self.halo, 0, MAX_HALO_TOKENS)
        _check_range("feather", self.feather, 0, MAX_FEATHER_PIXELS)
        if self.guidance is not None:
            _check_range("guidance", self.guidance, 0.0, MAX_GUIDANCE)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ParameterError(name, f"{value} is not in {low}..{high}")


@dataclass(slots=True)
class EditTimings:
    """Where the time of one edit went, in milliseconds, and what it computed."""

    cache: Literal["hit", "cold", "off"] = "off"
    encode_ms: float = 0.0
    record_ms: float = 0.0
    denoise_ms: float = 0.0
    decode_ms: float = 0.0
    step_ms: list[float] = field(default_factory=list)
    dense_steps: int = 0
    tokens_active: int = 0
    tokens_total: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class EditResult:
    """The edited picture, of the upload's size and mode, and its timings."""

    picture: Image.Image
    timings: EditTimings
