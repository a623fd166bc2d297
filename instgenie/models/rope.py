"""Rotary position embedding of packed tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring channel pairs, as Flux does (RoFormer, section 3.2.2).

    Args:
        x: [S, H, D] queries or keys.
        cos, sin: [S, D] float32, each angle twice in a row.
    Returns:
        [S, H, D] in x's dtype; computed in float32.
    """
    wide = x.float()
    even, odd = wide.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-odd, even], dim=-1).flatten(-2)
    return (wide * cos[:, None] + turned * sin[:, None]).to(x.dtype)
