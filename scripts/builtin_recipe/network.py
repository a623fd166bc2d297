"""The transformer that is trained, and what it takes in."""

from __future__ import annotations

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from builtin_recipe.recipes import PATCH, CommonRecipe
from instgenie.conditioning import mask_pixels, pack_latents
from instgenie.models.patch_autoencoder import PatchAutoencoder

TEXT_DIM = 384


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
