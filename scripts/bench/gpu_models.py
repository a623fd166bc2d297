"""Models with the sizes of known ones and random weights: how fast they are does not depend on the values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from diffusers import FluxTransformer2DModel
from PIL import Image

from bench.peers_models import RandomPrompts, square_mask
from instgenie.autoencoder import PatchCodec
from instgenie.checkpoint import Checkpoint
from instgenie.flow import FlowShift
from instgenie.model_settings import ModelSettings
from instgenie.models.flux import FluxForward
from instgenie.models.patch_autoencoder import PatchAutoencoder
from instgenie.request import EditRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A transformer of the Flux family, and what it is given.

    Attributes:
        double_blocks, single_blocks, heads, head_dim, channels, text_dim, pooled_dim, rope: of the transformer.
        side: of the square grid, in image tokens.
        patch: pixels of a token's side.
    """

    double_blocks: int
    single_blocks: int
    heads: int
    head_dim: int
    rope: tuple[int, int, int]
    channels: int
    text_dim: int
    pooled_dim: int
    text_tokens: int
    side: int
    patch: int


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "flux": Architecture(  # FLUX.1, 12B parameters, at 1024x1024 pixels
            double_blocks=19,
            single_blocks=38,
            heads=24,
            head_dim=128,
            rope=(16, 56, 56),
            channels=64,
            text_dim=4096,
            pooled_dim=768,
            text_tokens=512,
            side=64,
            patch=16,
        ),
        "medium": Architecture(  # 71M parameters, as in `engine.py`
            double_blocks=4,
            single_blocks=8,
            heads=8,
            head_dim=64,
            rope=(16, 24, 24),
            channels=64,
            text_dim=512,
            pooled_dim=512,
            text_tokens=32,
            side=32,
            patch=8,
        ),
        "tiny": Architecture(  # for trials of the script
            double_blocks=1,
            single_blocks=2,
            heads=2,
            head_dim=32,
            rope=(8, 12, 12),
            channels=16,
            text_dim=32,
            pooled_dim=32,
            text_tokens=4,
            side=8,
            patch=8,
        ),
    }
)


def random_checkpoint(name: str, dtype: torch.dtype, device: torch.device, steps: int) -> Checkpoint:
    """A model of `ARCHITECTURES` that edits: distilled, one pass a step."""
    of = ARCHITECTURES[name]
    torch.manual_seed(0)
    with _made_as(dtype, device):
        transformer = FluxTransformer2DModel(
            in_channels=of.channels,
            num_layers=of.double_blocks,
            num_single_layers=of.single_blocks,
            attention_head_dim=of.head_dim,
            num_attention_heads=of.heads,
            joint_attention_dim=of.text_dim,
            pooled_projection_dim=of.pooled_dim,
            guidance_embeds=True,
            axes_dims_rope=of.rope,
        )
    return Checkpoint(
        settings=ModelSettings(f"random {name}", steps, 3.5, of.side**2, of.text_tokens),
        revision="random",
        forward=FluxForward(transformer.eval().requires_grad_(False)),
        codec=PatchCodec(PatchAutoencoder(of.patch, of.channels).to(device)),
        prompts=RandomPrompts(of.text_tokens, of.text_dim, of.pooled_dim, device),
        shift=FlowShift(),
        takes_fill=False,
        distilled=True,
    )


def random_request(name: str, share: float, number: int = 0) -> EditRequest:
    """An edit of one random picture, whose square mask is `share` of it; each number has a prompt of its own.

    No halo and no refreshes: every step computes the masked tokens alone.
    """
    of = ARCHITECTURES[name]
    pixels = np.random.default_rng(0).integers(0, 256, (of.side * of.patch, of.side * of.patch, 3), np.uint8)
    return EditRequest(
        picture=Image.fromarray(pixels),
        mask=square_mask(of.side, share, of.patch),
        prompt=f"edit {number}",
        halo=0,
        refreshes=0,
    )


@contextmanager
def _made_as(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Modules of the block are made as that, there: 12B parameters in float32 would not fit most machines."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)
