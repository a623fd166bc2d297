"""Training scenes composited on the device, a batch at a time: what `scenes.py` draws one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from builtin_recipe.caption_table import SIZE_WORDS, CaptionTable
from builtin_recipe.concepts import COLOURS, SHAPES, SIZES, Concept
from builtin_recipe.device_atlas import DeviceAtlas, Squares, over
from builtin_recipe.device_backgrounds import backgrounds
from builtin_recipe.device_masks import masks_around
from builtin_recipe.draws import Draws
from builtin_recipe.scenes import draw_shape

KINDS = ("pictured", "shape", "nothing")
# Sides of the squares that objects and masks are made for: pixels, and shares of a scene. The least square is just
# more, the greatest less, than masks may cover.
MIN_SIDE, MIN_SHARE, MAX_SHARE = 36, 0.146, 0.85
MIN_EXTENT = 16  # pixels of an object
SIZED_SHARE = 0.2  # of captions
OTHERS = (0.6, 0.28, 0.12)  # shares of scenes with none, one and two objects to leave alone
OTHER_SIDES = (30, 0.42)  # pixels, share of a scene
MAX_HIDDEN = 0.5  # share of an object to leave alone that a mask may cover


@dataclass(frozen=True, slots=True, eq=False)
class SceneBatch:
    """`scenes.Scene`s of one size; outside the mask the target is the background.

    Attributes:
        target, background: [B, 3, S, S] in 0..1.
        mask: [B, 1, S, S] in {0, 1}.
        concept: [B] int64, place in the list of concepts.
        caption: [B] int64, number of the caption.
        alpha: [B, 1, S, S] in 0..1, what of a pixel the object covers.
    """

    target: Tensor
    background: Tensor
    mask: Tensor
    concept: Tensor
    caption: Tensor
    alpha: Tensor


class DeviceScenes:
    """Draws scenes of these concepts.

    Args:
        pictures: of every pictured concept, by code; all of them may be objects to leave alone.
        weights: shares of pictured things, shapes and nothing; a kind without concepts gets none.
        atlas_side: pixels of a picture on the device.
    """

    def __init__(
        self,
        concepts: Sequence[Concept],
        pictures: Mapping[str, Image.Image],
        weights: Sequence[float],
        device: str,
        atlas_side: int = 128,
    ) -> None:
        self.captions = CaptionTable(concepts, device)
        self._pictured = len(pictures)
        shapes = [_outline(shape, atlas_side) for shape in SHAPES]
        self._atlas = DeviceAtlas([*pictures.values(), *shapes], atlas_side, device)
        places = {code: place for place, code in enumerate((*pictures, *SHAPES))}
        self._place = torch.tensor([places.get(c.code, 0) for c in concepts], device=device)
        tints = [COLOURS.get(c.colour, (0, 0, 0)) for c in concepts]
        self._tint = torch.tensor(tints, device=device)[:, :, None, None] / 255
        members = [[i for i, concept in enumerate(concepts) if concept.kind == kind] for kind in KINDS]
        self._weights = [weight if found else 0.0 for weight, found in zip(weights, members, strict=True)]
        self._count = torch.tensor([len(found) for found in members], device=device)
        self._first = self._count.cumsum(0) - self._count
        self._members = torch.tensor([i for found in members for i in found], device=device)
        ranges = [(1.0, 1.0), *SIZES.values()]
        self._low, self._high = torch.tensor(ranges, device=device).T

    def batch(self, count: int, size: int, draws: Draws) -> SceneBatch:
        """Scenes of `size` x `size` pixels."""
        kind = draws.choice(self._weights, count)
        concept = self._members[self._first[kind] + draws.below(self._count[kind])]
        shape, nothing = kind == 1, kind == 2
        square = _squares(count, size, draws)
        word = draws.below(torch.full((count,), len(SIZE_WORDS) - 1, device=draws.device)) + 1
        word = word * (draws.chance(SIZED_SHARE, count) & ~nothing)
        layer = self._object(concept, shape, _inside(square, self._low[word], self._high[word], draws), size, draws)
        layer = layer * (~nothing)[:, None, None, None]
        mask = masks_around(square, layer[:, 3:], word > 0, nothing, draws)
        layer = layer * mask
        behind = self.surroundings(mask, nothing, draws)
        return SceneBatch(
            target=over(behind, layer),
            background=behind,
            mask=mask,
            concept=concept,
            caption=self.captions.draw(concept, word, draws),
            alpha=layer[:, 3:],
        )

    def _object(self, concept: Tensor, shape: Tensor, at: Squares, size: int, draws: Draws) -> Tensor:
        """[B, 4, S, S], colours times alpha; pictures mirrored half of the time, shapes tinted and lit from above."""
        mirrored = draws.chance(0.5, len(concept)) & ~shape
        layer = self._atlas.lay(self._place[concept], at, mirrored, size)
        light = 1.08 - 0.18 * at.across(size)[1][:, None]
        tint = self._tint[concept] + 6 / 255 * draws.normal(len(concept), 3, 1, 1)
        coloured = (tint * light).clamp(0, 1) * layer[:, 3:]
        colours = torch.where(shape[:, None, None, None], coloured, layer[:, :3])
        return torch.cat([colours, layer[:, 3:]], dim=1)

    def surroundings(self, mask: Tensor, nothing: Tensor, draws: Draws) -> Tensor:
        """Backgrounds with objects to leave alone, [B, 3, S, S].

        Masks may cut these but not hide them, for nothing would tell of what is behind the mask; where nothing is to
        be drawn they stay beside the mask.
        """
        count, size = len(mask), mask.shape[-1]
        behind = backgrounds(count, size, draws)
        number = draws.choice(OTHERS, count)
        low, high = OTHER_SIDES[0], max(OTHER_SIDES[0] + 1, OTHER_SIDES[1] * size)
        for turn in range(len(OTHERS) - 1):
            index = draws.below(torch.full((count,), self._pictured, device=mask.device))
            left, top = draws.uniform(-20, size - 20, 2, count).floor()
            at = Squares(left, top, draws.uniform(low, high, count).floor())
            layer = self._atlas.lay(index, at, torch.zeros_like(nothing), size)
            alpha = layer[:, 3:]
            hidden = (alpha * mask).sum((1, 2, 3)) / alpha.sum((1, 2, 3)).clamp(min=1e-6)
            shown = (number > turn) & (hidden <= torch.where(nothing, 0.0, MAX_HIDDEN))
            behind = over(behind, layer * shown[:, None, None, None])
        return behind


def _outline(shape: str, side: int) -> Image.Image:
    """The shape in white."""
    alpha = draw_shape(shape, "white", side, np.random.default_rng(0)).getchannel("A")
    picture = Image.new("RGBA", alpha.size, "white")
    picture.putalpha(alpha)
    return picture


def _squares(count: int, size: int, draws: Draws) -> Squares:
    """Where objects and masks are; small squares are the more frequent ones."""
    low = min(size, max(MIN_SIDE, -int(-MIN_SHARE * size // 1)))
    high = max(low, MAX_SHARE * size)
    side = (low + (high - low) * draws.uniform(0, 1, count) ** 1.5).floor()
    left, top = (draws.below(size - side + 1).float() for _ in "xy")
    return Squares(left, top, side)


def _inside(square: Squares, low: Tensor, high: Tensor, draws: Draws) -> Squares:
    """Squares somewhere inside others, of low..high of their sides."""
    share = low + (high - low) * draws.uniform(0, 1, len(low))
    side = torch.minimum((square.side * share).floor().clamp(min=MIN_EXTENT), square.side)
    dx, dy = (draws.below(square.side - side + 1).float() for _ in "xy")
    return Squares(square.left + dx, square.top + dy, side)
