"""Tiny random Flux transformers, and edits for them to compute."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from diffusers import FluxTransformer2DModel
from hypothesis import strategies as st
from torch import Tensor

from instgenie.edit_state import EditState, Guidance, start_edit
from instgenie.flow import FlowShift, flow_sigmas
from instgenie.models.flux import FluxForward
from instgenie.template import Template
from instgenie.text import Prompt
from instgenie.token_index import token_index
from instgenie.trajectory import Trajectory, seeded_noise

CHANNELS = 6
CONDITION_CHANNELS = 10
TEXT_DIM = 12
POOLED_DIM = 10


@cache
def tiny_forward(
    *, guidance_embeds: bool = False, fill: bool = False, dtype: torch.dtype = torch.float32
) -> FluxForward:
    """Two double-stream and two single-stream blocks of 2 heads; every weight is random, those of norms too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=CHANNELS + CONDITION_CHANNELS * fill,
            out_channels=CHANNELS,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=TEXT_DIM,
            pooled_projection_dim=POOLED_DIM,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 6, 6),
        )
        with torch.no_grad():
            for weight in transformer.parameters():
                if weight.ndim == 1:
                    weight.add_(0.3 * torch.randn_like(weight))
    return FluxForward(transformer.to(dtype))


def random_prompt(seed: int, length: int = 3) -> Prompt:
    """A prompt of `length` token states."""
    noise = seeded_noise((length * TEXT_DIM + POOLED_DIM,), 1000 + seed)
    return Prompt(noise[POOLED_DIM:].view(length, TEXT_DIM), noise[:POOLED_DIM])


def random_template(grid: tuple[int, int], steps: int, seed: int, *, fill: bool, guidance: float | None) -> Template:
    """A template of that many tokens."""
    tokens = grid[0] * grid[1]
    clean, noise = seeded_noise((tokens, CHANNELS), 2000 + seed), seeded_noise((tokens, CHANNELS), 3000 + seed)
    condition = seeded_noise((tokens, CONDITION_CHANNELS), 4000 + seed) if fill else None
    sigmas = flow_sigmas(steps, FlowShift(), tokens)
    return Template(
        f"template {seed}", grid, Trajectory(clean, noise), condition, random_prompt(seed, 2), guidance, sigmas
    )


def random_edit(
    template: Template, mask: Tensor, *, halo: int, guidance: Guidance, seed: int, strength: float = 1.0
) -> EditState:
    """An edit of the template's tokens in `mask` [rows, columns]."""
    noise = seeded_noise(tuple(template.trajectory.clean.shape), 5000 + seed)
    condition = None
    if template.condition is not None:
        condition = torch.where(mask.flatten()[:, None], seeded_noise(tuple(template.condition.shape), 6000 + seed), 0)
        condition = condition + template.condition * ~mask.flatten()[:, None]
    steps = len(template.sigmas) - 1
    sigmas = flow_sigmas(steps, FlowShift(), mask.numel(), strength)
    first_step = steps + 1 - len(sigmas)
    return start_edit(
        token_index(mask, 1, halo), template.trajectory, noise, condition, guidance, sigmas, first_step=first_step
    )


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest deviation against the largest expected magnitude."""
    return float((actual.float() - expected.float()).abs().max() / expected.float().abs().max())


@st.composite
def token_masks(draw: Callable[[st.SearchStrategy[object]], object], max_side: int = 8) -> Tensor:
    """[rows, columns] bool, any size up to `max_side`, never empty."""
    rows, columns = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    assert isinstance(rows, int)
    assert isinstance(columns, int)
    selected = draw(st.sets(st.integers(0, rows * columns - 1), min_size=1))
    assert isinstance(selected, set)
    mask = torch.zeros(rows * columns, dtype=torch.bool)
    mask[list(selected)] = True
    return mask.view(rows, columns)
