"""Backgrounds of scenes, a batch at a time: those of `scenes.background`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from builtin_recipe.draws import Draws

# Shares of plain, linear, radial, two-part, striped and cloudy ones.
KINDS = (0.2, 0.25, 0.12, 0.2, 0.08, 0.15)
CELLS = (3, 9)  # of a cloudy one's noise, from and below


def _clouds(count: int, size: int, draws: Draws) -> Tensor:
    """Smooth noise in about -1..1 of few cells, as many as each sample draws: [B, 1, S, S]."""
    cells = draws.below(torch.full((count,), CELLS[1] - CELLS[0], device=draws.device)) + CELLS[0]
    noise = draws.uniform(-1, 1, count, 1, CELLS[1], CELLS[1])
    # A window of `cells` cells of the noise, spread over the scene.
    reach = (cells / CELLS[1]).float()[:, None] * torch.linspace(-1, 1, size, device=draws.device)
    grid = torch.stack(
        [reach[:, None, :].expand(-1, size, -1), reach[:, :, None].expand(-1, -1, size)],
        dim=-1,
    )
    return functional.grid_sample(noise, grid, mode="bicubic", padding_mode="border", align_corners=False)


def backgrounds(count: int, size: int, draws: Draws) -> Tensor:
    """Plain, gradient, two-part, striped and cloudy pictures, [B, 3, S, S] in 0..1."""

    def each(low: float, high: float) -> Tensor:
        return draws.uniform(low, high, count, 1, 1, 1)

    first, other = draws.uniform(0.03, 0.97, 2, count, 3, 1, 1)
    near = (first + 0.12 * draws.normal(count, 3, 1, 1)).clamp(0, 1)  # neighbouring colours, as walls and skies have
    second = torch.where(draws.chance(0.5, count, 1, 1, 1), near, other)
    x = torch.linspace(0, 1, size, device=draws.device)
    y = x[:, None]
    angle = each(0, 2 * torch.pi)
    along = (x - 0.5) * angle.cos() + (y - 0.5) * angle.sin() + 0.5
    mixes = (
        along.clamp(0, 1),
        (torch.hypot(x - each(0.2, 0.8), y - each(0.2, 0.8)) * 1.3).clamp(0, 1),
        (y > each(0.35, 0.8)).float().expand(-1, -1, -1, size),
        0.5 + 0.5 * (along * each(12, 40)).sin(),
        (0.5 + 0.5 * _clouds(count, size, draws)).clamp(0, 1),
    )
    kind = draws.choice(KINDS, count, 1, 1, 1)
    mix = torch.zeros_like(along)
    for i, found in enumerate(mixes, start=1):
        mix = torch.where(kind == i, found, mix)
    grain = draws.uniform(-1, 1, count, 1, size // 3, size // 3)
    grain = functional.interpolate(grain, (size, size), mode="bicubic", align_corners=False)
    strength = 0.04 * draws.chance(0.3, count, 1, 1, 1)
    return (torch.lerp(first, second, mix) + strength * grain).clamp(0, 1)
