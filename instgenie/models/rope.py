"""Rotary position embedding of packed tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def apply_rope(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate neighbouring channel pairs, as Flux does (RoFormer, section 3.2.2).

    Args:
        x: [S, H, D] queries or keys.
        rotation: [S, D / 2, 2] float32, cos and sin of each pair's angle.
    Returns:
        [S, H, D] in x's dtype; computed in float32.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # inductor fuses this, and makes no code for complex numbers
        (even, odd), (cos, sin) = pairs.unbind(-1), rotation[:, None].unbind(-1)
        turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    else:  # one operation instead of six, to the same bits: on a CPU a tenth of the time
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotation)[:, None])
    return turned.flatten(-2).to(x.dtype)
