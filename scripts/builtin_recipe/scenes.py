"""Training scenes: a background, perhaps an object beside the mask, and the prompted thing inside the mask."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from builtin_recipe.concepts import COLOURS, SIZES, Concept, caption, shape_outline

Pixels = npt.NDArray[np.float32]  # [H, W, C], 0..1
# An object beside a mask: places that are tried, and pixels of it that lie in the scene at least.
BESIDE_TRIES, MIN_BESIDE = 30, 200


@dataclass(frozen=True, slots=True)
class Scene:
    """One training or evaluation case; pictures are [S, S, 3] in 0..1, the mask is [S, S] in {0, 1}."""

    target: Pixels
    background: Pixels
    mask: Pixels
    concept: Concept
    caption: str


def _noise(size: int, cells: int, rng: np.random.Generator) -> Pixels:
    """Smooth noise in -1..1, [S, S, 1]."""
    small = Image.fromarray(rng.uniform(0, 255, (cells, cells)).astype(np.uint8))
    return np.asarray(small.resize((size, size), Image.Resampling.BICUBIC), np.float32)[..., None] / 127.5 - 1


def background(size: int, rng: np.random.Generator) -> Pixels:
    """A plain, gradient, two-part, striped or cloudy background."""
    first, second = rng.uniform(0.03, 0.97, (2, 3)).astype(np.float32)
    if rng.random() < 0.5:  # neighbouring colours, as walls and skies have
        second = np.clip(first + rng.normal(0, 0.12, 3), 0, 1).astype(np.float32)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / (size - 1)
    angle = rng.uniform(0, 2 * np.pi)
    along = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle) + 0.5
    kind = rng.choice(
        ["plain", "linear", "radial", "horizon", "stripes", "cloudy"], p=[0.2, 0.25, 0.12, 0.2, 0.08, 0.15]
    )
    if kind == "plain":
        mix = np.zeros_like(x)
    elif kind == "linear":
        mix = np.clip(along, 0, 1)
    elif kind == "radial":
        cx, cy = rng.uniform(0.2, 0.8, 2)
        mix = np.clip(np.hypot(x - cx, y - cy) * 1.3, 0, 1)
    elif kind == "horizon":
        mix = (y > rng.uniform(0.35, 0.8)).astype(np.float32)
    elif kind == "stripes":
        mix = 0.5 + 0.5 * np.sin(along * rng.uniform(12, 40))
    else:
        mix = np.clip(0.5 + 0.5 * _noise(size, int(rng.integers(3, 9)), rng)[..., 0], 0, 1)
    picture = first + (second - first) * mix[..., None].astype(np.float32)
    if rng.random() < 0.3:
        picture = picture + 0.04 * _noise(size, size // 3, rng)
    clipped: Pixels = np.clip(picture, 0, 1).astype(np.float32)
    return clipped


def draw_shape(shape: str, colour: str, side: int, rng: np.random.Generator) -> Image.Image:
    """The shape as RGBA, lit from above a little, its colour jittered."""
    scale = 4
    alpha = Image.new("L", (side * scale, side * scale), 0)
    pen = ImageDraw.Draw(alpha)
    for i, polygon in enumerate(shape_outline(shape)):
        pen.polygon([(x * side * scale, y * side * scale) for x, y in polygon], fill=0 if i else 255)
    alpha = alpha.resize((side, side), Image.Resampling.BOX)
    tint = np.array(COLOURS[colour], np.float32) + rng.normal(0, 6, 3)
    light = np.linspace(1.08, 0.9, side, dtype=np.float32)[:, None, None]
    rgb = np.clip(tint * light, 0, 255).repeat(side, 1).astype(np.uint8)
    picture = Image.fromarray(rgb).convert("RGBA")
    picture.putalpha(alpha)
    return picture


def picture_of(
    concept: Concept, side: int, pictures: Mapping[str, Image.Image], rng: np.random.Generator
) -> Image.Image:
    """The concept as RGBA of side x side pixels, mirrored half of the time."""
    if concept.kind == "shape":
        return draw_shape(concept.code, concept.colour, side, rng)
    picture = pictures[concept.code].resize((side, side), Image.Resampling.BILINEAR)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else picture


def put(scene: Pixels, picture: Image.Image, left: int, top: int) -> Pixels:
    """The scene with the picture laid over it; parts beyond the border are cut."""
    size = scene.shape[0]
    layer = Image.new("RGBA", (size, size))
    layer.paste(picture, (left, top))
    rgba = np.asarray(layer, np.float32) / 255
    return (scene * (1 - rgba[..., 3:]) + rgba[..., :3] * rgba[..., 3:]).astype(np.float32)


def _thresholded(layer: Image.Image) -> Pixels:
    """[S, S] in {0, 1} of an "L" picture."""
    return (np.asarray(layer, np.float32) > 127).astype(np.float32)


def mask_around(
    left: int, top: int, side: int, outline: Image.Image | None, size: int, rng: np.random.Generator
) -> Pixels:
    """A mask that holds the square: a loose box, an ellipse round it, or the outline (RGBA) made wider.

    The outline is that of the object, side x side pixels; without one the mask is a box or an ellipse.
    """
    layer = Image.new("L", (size, size), 0)
    pen = ImageDraw.Draw(layer)
    kind = rng.random()
    if kind < 0.6:
        grow = rng.uniform(0.0, 0.22, 4) * side
        pen.rectangle((left - grow[0], top - grow[1], left + side + grow[2], top + side + grow[3]), fill=255)
    elif kind < 0.8 or outline is None:
        margin = side * rng.uniform(0.1, 0.25)
        pen.ellipse((left - margin, top - margin, left + side + margin, top + side + margin), fill=255)
    else:
        alpha = Image.new("L", (size, size), 0)
        alpha.paste(outline.getchannel("A"), (left, top))
        reach = 2 * int(rng.integers(3, 9)) + 1
        layer = alpha.point(lambda a: 255 * (a > 8)).filter(ImageFilter.MaxFilter(reach))
    return _thresholded(layer)


def brush_mask(left: int, top: int, side: int, size: int, rng: np.random.Generator) -> Pixels:
    """A few thick strokes whose ends lie in the square."""
    layer = Image.new("L", (size, size), 0)
    pen = ImageDraw.Draw(layer)
    corner = np.array((left, top), float)
    at = corner + rng.uniform(0, 1, 2) * side
    width = int(rng.uniform(0.12, 0.35) * side) + 2
    for _ in range(int(rng.integers(2, 6))):
        to = np.clip(at + rng.normal(0, 0.4, 2) * side, corner, corner + side)
        pen.line((*at, *to), fill=255, width=width)
        pen.ellipse((*(to - width / 2), *(to + width / 2)), fill=255)
        at = to
    return _thresholded(layer)


@dataclass(frozen=True, slots=True)
class Place:
    """The square of a scene, in pixels, that its object and mask stay in."""

    left: int
    top: int
    side: int

    def cut(self, mask: Pixels) -> Pixels:
        """The mask without what lies outside the square."""
        kept = np.zeros_like(mask)
        inside = np.s_[self.top : self.top + self.side, self.left : self.left + self.side]
        kept[inside] = mask[inside]
        return kept


def _number_of_others(rng: np.random.Generator) -> int:
    return int(rng.choice(3, p=(0.6, 0.28, 0.12)))


def _other(
    size: int, pictures: Mapping[str, Image.Image], rng: np.random.Generator, words: random.Random
) -> tuple[Image.Image, int, int]:
    """An object to leave alone, its left and its top; it may stick out of the scene."""
    other = pictures[words.choice(list(pictures))]
    extent = int(rng.uniform(30, 80))
    left, top = (int(v) for v in rng.integers(-20, size - 20, 2))
    return other.resize((extent, extent)), left, top


def _put_beside(
    scene: Pixels, mask: Pixels, pictures: Mapping[str, Image.Image], rng: np.random.Generator, words: random.Random
) -> Pixels:
    """The scene with an object to leave alone that the mask does not touch, if one of some tries finds room."""
    for _ in range(BESIDE_TRIES):
        picture, left, top = _other(len(mask), pictures, rng, words)
        layer = Image.new("L", mask.shape[::-1])
        layer.paste(picture.getchannel("A"), (left, top))
        covered = np.asarray(layer) > 0
        if covered.sum() >= MIN_BESIDE and not mask[covered].any():
            return put(scene, picture, left, top)
    return scene


def make_scene(
    concept: Concept,
    size: int,
    pictures: Mapping[str, Image.Image],
    rng: np.random.Generator,
    words: random.Random,
    place: Place | None = None,
    size_word: str | None = None,
    others: int | None = None,
) -> Scene:
    """One case of `size` x `size` pixels; masks are made for objects of 36...122 pixels, whatever the scene's size.

    Args:
        pictures: RGBA pictures by code point, square.
        place: where object and mask stay; None is the whole scene.
        size_word: one of `SIZES`, or "" for an object that fills the mask; None draws one, mostly "".
        others: objects to leave alone, which the mask may cut; where nothing is to be drawn they stay beside it, if
            there is room. None draws their number.
    """
    behind = background(size, rng)
    place = place or Place(0, 0, size)
    side = int(rng.uniform(min(36, place.side), min(122, place.side)))
    dx, dy = rng.integers(0, place.side - side + 1, 2)
    left, top = place.left + int(dx), place.top + int(dy)
    if concept.kind == "nothing":
        brush = rng.random() < 0.5
        mask = brush_mask(left, top, side, size, rng) if brush else mask_around(left, top, side, None, size, rng)
        mask = place.cut(mask)
        for _ in range(_number_of_others(rng) if others is None else others):
            behind = _put_beside(behind, mask, pictures, rng, words)
        return Scene(behind, behind, mask, concept, caption(concept, words))
    for _ in range(_number_of_others(rng) if others is None else others):
        behind = put(behind, *_other(size, pictures, rng, words))
    if size_word is None:
        size_word = words.choice(list(SIZES)) if words.random() < 0.2 else ""
    low, high = SIZES.get(size_word, (1.0, 1.0))
    extent = max(16, int(side * rng.uniform(low, high)))
    dx, dy = (int(v) for v in rng.integers(0, max(0, side - extent) + 1, 2))
    picture = picture_of(concept, extent, pictures, rng)
    outline = None if size_word else picture
    mask = mask_around(left, top, side, outline, size, rng)
    target = put(behind, picture, left + dx, top + dy)
    return Scene(target, behind, place.cut(mask), concept, caption(concept, words, size_word))
