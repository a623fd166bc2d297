"""The two models that peers are compared on, and their edits."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np
import torch
from PIL import Image

from bench.engine import CHANNELS, TEXT_DIM, TEXT_TOKENS, medium_flux, square_positions
from builtin_recipe.cases import held_out_cases
from builtin_recipe.pictures import load_atlas
from instgenie.autoencoder import PatchCodec
from instgenie.checkpoint import Checkpoint
from instgenie.flow import FlowShift
from instgenie.mask import Mask
from instgenie.model_settings import ModelSettings
from instgenie.models.flux import FluxForward
from instgenie.models.patch_autoencoder import PatchAutoencoder
from instgenie.request import EditRequest
from instgenie.text import Prompt

PATCH = 8  # pixels
MEDIUM_MASKS = (0.11, 0.20, 0.05, 0.35)  # of the medium model's edits, in turn; a production trace has 0.11 on average


class RandomPrompts:
    """A `PromptEncoder` of noise, another one for every text, on the model's device as those of real models are."""

    def __init__(
        self,
        text_tokens: int = TEXT_TOKENS,
        text_dim: int = TEXT_DIM,
        pooled_dim: int = TEXT_DIM,
        device: torch.device | None = None,
    ) -> None:
        self._states, self._pooled, self._device = (text_tokens, text_dim), pooled_dim, device

    def encode(self, texts: list[str]) -> list[Prompt]:
        """See `PromptEncoder`."""
        prompts = []
        for text in texts:
            seeded = torch.Generator().manual_seed(sum(text.encode()))
            states = torch.randn(self._states, generator=seeded).to(self._device)
            prompts.append(Prompt(states, torch.randn(self._pooled, generator=seeded).to(self._device)))
        return prompts


def medium_checkpoint(dtype: torch.dtype, side: int = 32, steps: int = 20) -> Checkpoint:
    """`medium_flux` as a model that edits: all of it is random, one pass a step, side x side tokens."""
    forward = FluxForward(medium_flux(dtype))
    torch.manual_seed(0)
    return Checkpoint(
        settings=ModelSettings("medium random Flux", steps=steps, guidance=1.0, canvas_tokens=side**2),
        revision="random",
        forward=forward,
        codec=PatchCodec(PatchAutoencoder(PATCH, CHANNELS)),
        prompts=RandomPrompts(),
        shift=FlowShift(),
        takes_fill=False,
        distilled=False,
    )


def medium_requests(count: int, side: int = 32, steps: int | None = None) -> list[EditRequest]:
    """Edits of random pictures, with square masks of `MEDIUM_MASKS`."""
    drawn = np.random.default_rng(0)
    requests = []
    for number in range(count):
        pixels = drawn.integers(0, 256, (side * PATCH, side * PATCH, 3), np.uint8)
        mask = square_mask(side, MEDIUM_MASKS[number % len(MEDIUM_MASKS)])
        requests.append(EditRequest(picture=Image.fromarray(pixels), mask=mask, prompt=f"edit {number}", steps=steps))
    return requests


def square_mask(side: int, share: float, patch: int = PATCH) -> Mask:
    """[H, W] of side x side tokens: a centred square of about that share of them, on the tokens' borders."""
    tokens = np.zeros(side**2, bool)
    tokens[square_positions(side, share).numpy()] = True
    return tokens.reshape(side, side).repeat(patch, 0).repeat(patch, 1)


def embedded_requests(checkpoint: Checkpoint, count: int, steps: int | None = None) -> list[EditRequest]:
    """So many held-out cases of the embedded model, no thing twice before all were there."""
    size = isqrt(checkpoint.settings.canvas_tokens) * checkpoint.codec.patch
    cases = held_out_cases("pictured", count, size, load_atlas(), leap=True)
    return [case.request(steps=steps) for case in cases]


def batch_from(requests: Sequence[EditRequest], first: int, size: int) -> list[EditRequest]:
    """So many requests from number `first` on, round the end."""
    return [requests[(first + number) % len(requests)] for number in range(size)]
