"""Does an edit show what was asked for? The edit is compared with drawings of every concept in the same place."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from builtin_recipe.concepts import Concept
from builtin_recipe.scenes import Pixels, Scene, draw_shape

CROP = 32  # pixels; details below this size do not decide what a thing is
SCALES = (0.55, 0.65, 0.75, 0.85, 0.95, 1.05)  # of the mask's shorter side
SHIFTS = (-0.12, 0.0, 0.12)  # of the mask's sides
# A thing that lies between two scales or shifts reaches this much beyond its nearest drawing.
SLACK = 3  # pixels of a crop, each way


def _crop(picture: Pixels, box: tuple[int, int, int, int]) -> Pixels:
    """The box of a [S, S, C] picture in 0..1, scaled to CROP x CROP."""
    levels = Image.fromarray(np.rint(picture * 255).astype(np.uint8))
    small = levels.resize((CROP, CROP), Image.Resampling.BOX, box=box)
    return np.asarray(small, np.float32) / np.float32(255)


def _drawings(picture: Image.Image, width: int, height: int, *, symmetric: bool) -> Pixels:
    """The picture at every scale, shift and mirroring inside a width x height box: [N, CROP, CROP, 4]."""
    found = []
    for mirrored in (picture,) if symmetric else (picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
        for scale in SCALES:
            across, down = (max(1, round(scale * min(width, height) / side * CROP)) for side in (width, height))
            small = mirrored.resize((across, down), Image.Resampling.BOX)
            for dx in SHIFTS:
                for dy in SHIFTS:
                    layer = Image.new("RGBA", (CROP, CROP))
                    layer.paste(small, (round((CROP - across) / 2 + dx * CROP), round((CROP - down) / 2 + dy * CROP)))
                    found.append(np.asarray(layer, np.float32) / 255)
    return np.stack(found)


@dataclass(frozen=True, slots=True)
class Found:
    """What an edit looks most like.

    Attributes:
        errors: mean squared error, inside the mask, to the nearest drawing of each concept, by label.
        uncovered: [S, S] in {0, 1}, pixels of the mask that the nearest drawing of all leaves free.
    """

    errors: Mapping[str, float]
    uncovered: Pixels

    @property
    def label(self) -> str:
        """The nearest concept's."""
        return min(self.errors, key=self.errors.__getitem__)

    def rank(self, label: str, among: Collection[str] | None = None) -> int:
        """Place of the concept when those of `among`, by default all, are ordered by error; 0 is the nearest."""
        errors = self.errors if among is None else {other: self.errors[other] for other in among}
        return sum(error < self.errors[label] for error in errors.values())


class Gallery:
    """Drawings of concepts on one scene's background, in the place of its mask."""

    def __init__(self, scene: Scene, concepts: Sequence[Concept], pictures: Mapping[str, Image.Image]) -> None:
        self._scene = scene
        rows, columns = np.flatnonzero(scene.mask.any(1)), np.flatnonzero(scene.mask.any(0))
        self._box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        behind = _crop(scene.background, self._box)
        self._weight = _crop(scene.mask[..., None].repeat(3, 2), self._box)[..., :1]
        self._composites: dict[str, Pixels] = {}  # [N, CROP, CROP, 3]
        self._alphas: dict[str, Pixels] = {}  # [N, CROP, CROP]
        for concept in concepts:
            if concept.kind == "shape":
                picture = draw_shape(concept.code, concept.colour, 64, np.random.default_rng(0))
            else:
                picture = pictures[concept.code]
            width, height = self._box[2] - self._box[0], self._box[3] - self._box[1]
            drawn = _drawings(picture, width, height, symmetric=concept.kind == "shape")
            self._composites[concept.label] = behind * (1 - drawn[..., 3:]) + drawn[..., :3] * drawn[..., 3:]
            self._alphas[concept.label] = drawn[..., 3]

    def find(self, edited: Pixels) -> Found:
        """Compare an edit of the scene, [S, S, 3] in 0..1, with every drawing."""
        crop = _crop(edited, self._box)
        scale = 3 * self._weight.sum()
        errors, alphas = {}, {}
        for label, composites in self._composites.items():
            distances = ((composites - crop) ** 2 * self._weight).sum((1, 2, 3)) / scale
            best = int(distances.argmin())
            errors[label], alphas[label] = float(distances[best]), self._alphas[label][best]
        return Found(errors, self._uncovered(alphas[min(errors, key=errors.__getitem__)]))

    def _uncovered(self, alpha: Pixels) -> Pixels:
        left, top, right, bottom = self._box
        drawn = Image.fromarray((alpha > 0).astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * SLACK + 1))
        covered = np.zeros_like(self._scene.mask)
        covered[top:bottom, left:right] = np.asarray(drawn.resize((right - left, bottom - top))) > 0
        return self._scene.mask * (1 - covered)
