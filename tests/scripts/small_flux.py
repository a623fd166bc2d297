"""A transformer in the place of the benchmarks' medium one."""

from __future__ import annotations

import torch
from diffusers import FluxTransformer2DModel

from bench.engine import CHANNELS, TEXT_DIM


def small_flux(dtype: torch.dtype = torch.float32) -> FluxTransformer2DModel:
    """With its channels, and 2 double-stream and 3 single-stream blocks of 2 heads x 16."""
    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        in_channels=CHANNELS,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT_DIM,
        pooled_projection_dim=TEXT_DIM,
        axes_dims_rope=(4, 6, 6),
    )
    return model.to(dtype)
