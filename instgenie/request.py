"""What is asked for and what is given back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

from instgenie.errors import MaskError, ParameterError
from instgenie.fidelity import DEFAULT_HALO, DEFAULT_STEP_CACHE, MAX_REFRESHES
from instgenie.mask import Mask
from instgenie.orders import ServingTier
from instgenie.parameter_checks import (
    MAX_FEATHER_PIXELS,
    MAX_HALO_TOKENS,
    MAX_SEED,
    check_namespace,
    check_picture,
    check_template,
    check_text,
    check_whole,
)
from instgenie.step_cache import MAX_STEP_CACHE


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
        refreshes: steps that compute all tokens, so that records are corrected by what the edit changes around it; None
            takes `default_refreshes`.
        step_cache: after the first steps one in so many is computed, and the velocities of those between are
            extrapolated; 1 computes every step. Dense edits follow it, too.
        feather: width in pixels of the blend inside the mask's border.
        cached: compute masked tokens with the template's records; False computes all tokens (dense).
        must_hit: fail where the template's records are not there, instead of making them.
        crop: edit a picture that is larger than the model's canvas in a window round the mask.
        namespace: whose template it is: records are shared within a namespace alone. 1 to 64 letters, digits, dots, _
            and -; empty is a namespace too.

    Raises:
        PictureError: a picture that is neither RGB nor RGBA.
        MaskError: a mask that is not [H, W] of bool, of another size than the picture, or selects nothing.
        ParameterError: a value outside its limits; the message names both.
    """

    picture: Image.Image
    mask: Mask
    prompt: str
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    strength: float = 1.0
    halo: int = DEFAULT_HALO
    refreshes: int | None = None
    step_cache: int = DEFAULT_STEP_CACHE
    feather: int = 0
    template_seed: int = 0
    template_prompt: str = ""
    cached: bool = True
    must_hit: bool = False
    crop: bool = True
    namespace: str = ""

    def __post_init__(self) -> None:
        check_picture(self.picture)
        if self.mask.dtype != bool or self.mask.ndim != 2:
            raise MaskError("mask", f"must be [H, W] of bool, got shape {self.mask.shape} of {self.mask.dtype}")
        if self.mask.shape != (self.picture.height, self.picture.width):
            theirs, ours = self.mask.shape[::-1], self.picture.size
            raise MaskError("mask", f"{theirs[0]}x{theirs[1]} pixels, the picture has {ours[0]}x{ours[1]}")
        if not self.mask.any():
            raise MaskError("mask", "is empty: it selects no pixel")
        check_text("prompt", self.prompt)
        check_namespace(self.namespace)
        check_template(self.steps, self.guidance, self.template_seed, self.template_prompt)
        if not 0 < self.strength <= 1:
            raise ParameterError("strength", f"{self.strength} is not in 0 < strength <= 1")
        check_whole("seed", self.seed, 0, MAX_SEED)
        check_whole("halo", self.halo, 0, MAX_HALO_TOKENS)
        if self.refreshes is not None:
            check_whole("refreshes", self.refreshes, 0, MAX_REFRESHES)
        check_whole("step_cache", self.step_cache, 1, MAX_STEP_CACHE)
        check_whole("feather", self.feather, 0, MAX_FEATHER_PIXELS)


@dataclass(slots=True)
class EditTimings:
    """Where the time of one edit went, in milliseconds, and what it computed.

    Attributes:
        cache: hit: the template's records were there. cold: this edit made them. partial: some were lost or could
            not be read, `dense_steps - refreshes` says for how many steps. refused: the cache did not take the
            template, so all steps were dense. off: a dense edit, asked for or because the mask and its halo cover
            everything.
        tier: where the records were when the edit began: device where all that it needs were there, else the coldest
            tier that the cache has to take one from. None where the edit did not find the template's records.
        dense_steps: that computed all tokens.
        refreshes: of them, those that did so to correct the records.
        extrapolated_steps: that were not computed, and have no time in `step_ms`.
        tokens_active: tokens computed at a step that the cache served, else all of them.
        stall_ms: of `denoise_ms`, waiting for records.
        full_blocks: blocks that were planned to compute all tokens, rather than wait for their records, over all steps.
    """

    cache: Literal["hit", "cold", "partial", "refused", "off"] = "off"
    encode_ms: float = 0.0
    record_ms: float = 0.0
    denoise_ms: float = 0.0
    decode_ms: float = 0.0
    step_ms: list[float] = field(default_factory=list)
    dense_steps: int = 0
    refreshes: int = 0
    extrapolated_steps: int = 0
    tokens_active: int = 0
    tokens_total: int = 0
    tier: ServingTier | None = None
    stall_ms: float = 0.0
    full_blocks: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class EditResult:
    """The edited picture, of the upload's size and mode, and its timings."""

    picture: Image.Image
    timings: EditTimings
