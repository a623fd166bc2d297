"""The transformer that is trained, what it takes in, and what its training lowers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor
from torch.nn import functional

from builtin_recipe.recipes import PATCH, CommonRecipe
from instgenie.conditioning import mask_pixels, pack_latents
from instgenie.models.patch_autoencoder import PatchAutoencoder

TEXT_DIM = 384
CONTEXT_WEIGHT = 0.03  # of the loss on tokens without masked pixels, which edits do not show


def new_transformer(recipe: CommonRecipe) -> FluxTransformer2DModel:
    """The untrained transformer; its input layout is `instgenie.conditioning`'s."""
    return FluxTransformer2DModel(
        in_channels=2 * recipe.latent_channels + PATCH * PATCH,
        out_channels=recipe.latent_channels,
        num_layers=recipe.double_blocks,
        num_single_layers=recipe.single_blocks,
        attention_head_dim=recipe.head_dim,
        num_attention_heads=recipe.heads,
        joint_attention_dim=TEXT_DIM,
        pooled_projection_dim=TEXT_DIM,
        axes_dims_rope=(recipe.head_dim - 48, 24, 24),
    )


def fill_inputs(autoencoder: PatchAutoencoder, pixels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Clean tokens [B, L, C] and conditioning [B, L, C + P*P] of pictures in -1..1 and their masks [B, 1, S, S]."""
    clean = pack_latents(autoencoder.encode(pixels), 1)
    masked = pack_latents(autoencoder.encode(pixels * (1 - mask)), 1)
    return clean, torch.cat([masked, mask_pixels(mask, PATCH, 1)], dim=-1)


def token_weight(mask: Tensor) -> Tensor:
    """Weight of each token in the loss, [B, L, 1], of masks [B, 1, S, S]: most of it on tokens with masked pixels."""
    return functional.max_pool2d(mask, PATCH).flatten(2).transpose(1, 2) + CONTEXT_WEIGHT


def velocity_loss(
    forward: Callable[..., Any],
    clean: Tensor,
    condition: Tensor,
    weight: Tensor,
    *,
    states: Tensor,
    pooled: Tensor,
    time: Tensor,
    noise: Tensor,
    ids: Tensor,
) -> Tensor:
    """Weighted squared error of the velocity from the clean tokens to noise, [] float32.

    Args:
        forward: the transformer, compiled or not.
        clean: [B, L, C] tokens; `noise` has that shape.
        condition: [B, L, C + P*P], as `fill_inputs` gives it.
        weight: [B, L, 1].
        states, pooled: prompts, [B, T, D] and [B, D].
        time: [B] noise levels, 0..1.
        ids: [L, 3] places of the tokens.
    """
    noisy = torch.lerp(clean, noise, time[:, None, None])
    with torch.autocast(clean.device.type, torch.bfloat16):
        velocity: Tensor = forward(
            hidden_states=torch.cat([noisy, condition], -1),
            encoder_hidden_states=states,
            pooled_projections=pooled,
            timestep=time,
            img_ids=ids,
            txt_ids=torch.zeros(states.shape[1], 3, device=clean.device),
            return_dict=False,
        )[0]
    return ((velocity.float() - (noise - clean)) ** 2 * weight).sum() / (weight.sum() * clean.shape[-1])
