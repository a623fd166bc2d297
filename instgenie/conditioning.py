"""Inputs of a fill-conditioned model: noisy latents, the masked picture's latents, the mask.

The layout is that of diffusers' Flux Fill pipeline: per token [noisy (C) | masked picture (C) | mask pixels (P*P)],
where C is the length of a packed latent and P the side in pixels of the square that one token covers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def pack_latents(latents: Tensor, pack: int) -> Tensor:
    """[B, c, h, w] -> tokens [B, (h/pack)*(w/pack), c*pack*pack] in raster order, channels as Flux packs them."""
    return functional.pixel_unshuffle(latents, pack).flatten(2).transpose(1, 2)


def unpack_latents(tokens: Tensor, grid: tuple[int, int], pack: int) -> Tensor:
    """Inverse of `pack_latents`; `grid` is (rows, columns) of tokens."""
    rows, columns = grid
    return functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), pack)


def mask_pixels(mask: Tensor, patch: int, pack: int) -> Tensor:
    """[B, 1, H, W] in {0, 1} -> [B, L, patch*patch], the mask of each token's own pixels.

    Flux Fill turns the pixels of each latent into channels first and packs latents afterwards, which orders the
    channels otherwise than one step would.
    """
    return pack_latents(functional.pixel_unshuffle(mask, patch // pack), pack)


def image_ids(grid: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """[L, 3] position ids (0, row, column) in raster order, float32, as diffusers' Flux pipelines make them."""
    rows, columns = grid
    row, column = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).flatten(0, 1).float()
