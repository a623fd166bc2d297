"""Masks that hold a square of each scene, a batch at a time: boxes, ellipses, widened outlines, brush strokes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from builtin_recipe.device_atlas import Squares
from builtin_recipe.draws import Draws

# Share of a scene that a mask may cover.
COVERAGE = (0.02, 0.8)
# Shares of boxes, ellipses, outlines and strokes: round an object, round one whose size the mask must not give away,
# and where there is nothing.
OBJECT_KINDS, SIZED_KINDS, NOTHING_KINDS = (0.5, 0.18, 0.16, 0.16), (0.6, 0.4, 0.0, 0.0), (0.3, 0.2, 0.0, 0.5)
REACH = (3, 9)  # pixels that an outline is widened by, from and below
STROKES = (2, 6)  # of a brush, from and below


def boxes(at: Squares, grow: Tensor, size: int) -> Tensor:
    """Boxes that hold the squares, wider by the shares `grow` [B, 4] of their sides: [B, 1, S, S]."""
    x, y = at.across(size)
    left, top, right, bottom = grow[:, :, None, None].unbind(1)
    inside = (x > -left) & (x < 1 + right) & (y > -top) & (y < 1 + bottom)
    return inside[:, None].float()


def ellipses(at: Squares, margin: Tensor, size: int) -> Tensor:
    """Circles round the squares' middles that reach `margin` [B] of a side beyond them: [B, 1, S, S]."""
    x, y = at.across(size)
    inside = (x - 0.5) ** 2 + (y - 0.5) ** 2 < (0.5 + margin[:, None, None]) ** 2
    return inside[:, None].float()


def outlines(alpha: Tensor, reach: Tensor) -> Tensor:
    """What is visible [B, 1, S, S], wider by `reach` [B] pixels each way."""
    grown = (alpha > 8 / 255).float()
    found = grown
    for step in range(1, REACH[1]):
        grown = functional.max_pool2d(grown, 3, 1, 1)
        found = torch.where(reach[:, None, None, None] >= step, grown, found)
    return found


def strokes(at: Squares, size: int, draws: Draws) -> Tensor:
    """A few thick strokes whose ends lie in the squares: [B, 1, S, S]."""
    count = len(at.side)
    x, y = at.across(size)
    radius = (draws.uniform(0.12, 0.35, count) / 2 + 1 / at.side)[:, None, None]
    number = draws.below(torch.full((count,), STROKES[1] - STROKES[0], device=draws.device)) + STROKES[0]
    from_x, from_y = draws.uniform(0, 1, 2, count, 1, 1)
    found = torch.zeros(count, size, size, dtype=torch.bool, device=draws.device)
    for stroke in range(STROKES[1] - 1):
        step_x, step_y = 0.4 * draws.normal(2, count, 1, 1)
        to_x, to_y = (from_x + step_x).clamp(0, 1), (from_y + step_y).clamp(0, 1)
        dx, dy = to_x - from_x, to_y - from_y
        # the point of the stroke's line that is nearest to each pixel
        along = (((x - from_x) * dx + (y - from_y) * dy) / (dx**2 + dy**2).clamp(min=1e-6)).clamp(0, 1)
        near = (x - from_x - along * dx) ** 2 + (y - from_y - along * dy) ** 2 < radius**2
        found |= near & (stroke < number)[:, None, None]
        from_x, from_y = to_x, to_y
    return found[:, None].float()


def coverage(masks: Tensor) -> Tensor:
    """Share of its scene that each mask covers: [B]."""
    return masks.mean((1, 2, 3))


def masks_around(at: Squares, alpha: Tensor, sized: Tensor, nothing: Tensor, draws: Draws) -> Tensor:
    """Masks [B, 1, S, S] in {0, 1} that hold what is to be drawn and cover 2...80 % of a scene.

    Args:
        at: where the objects are; their sides are such that a square covers that share.
        alpha: [B, 1, S, S] of the objects, 0 where there is none.
        sized: [B], whether the caption says a size.
        nothing: [B], whether nothing is to be drawn.
    """
    count, size = len(alpha), alpha.shape[-1]
    object_kind, sized_kind, nothing_kind = (
        draws.choice(weights, count) for weights in (OBJECT_KINDS, SIZED_KINDS, NOTHING_KINDS)
    )
    kind = torch.where(nothing, nothing_kind, torch.where(sized, sized_kind, object_kind))[:, None, None, None]
    reach = draws.below(torch.full((count,), REACH[1] - REACH[0], device=draws.device)) + REACH[0]
    outline = outlines(alpha, reach)
    found = boxes(at, draws.uniform(0, 0.22, count, 4), size)
    found = torch.where(kind == 1, ellipses(at, draws.uniform(0.1, 0.25, count), size), found)
    found = torch.where(kind == 2, outline, found)
    found = torch.where(kind == 3, torch.maximum(strokes(at, size, draws), outline), found)
    share = coverage(found)[:, None, None, None]
    tight = boxes(at, torch.zeros(count, 4, device=draws.device), size)
    return torch.where((share < COVERAGE[0]) | (share > COVERAGE[1]), tight, found)
