"""Does an edit show what was asked for? The edit is compared with drawings of every concept in the same place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from builtin_recipe.concepts import Concept
from builtin_recipe.scenes import Pixels, Scene, draw_shape

CROP = 32  # pixels; details below this size do not decide what a thing is
SCALES = (0.55, 0.65, 0.75, 0.85, 0.95, 1.05)  # of the mask's shorter side
SHIFTS = (-0.12, 0.0, 0.12)  # of the mask's sides


def _crop(picture: Pixels, box: tuple[int, int, int, int]) -> Pixels:
    """The box of a [S, S, C] picture in 0..1, scaled to CROP x CROP."""
    levels = Image.fromarray(np.rint(picture * 255).astype(np.uint8))
    small = levels.resize((CROP, CROP), Image.Resampling.BOX, box=box)
    return np.asarray(small, np.float32) / np.float32(255)


def _drawings(picture: Image.Image, width: int, height: int) -> Pixels:
    """The picture at every scale, shift and mirroring inside a width x height box: [N, CROP, CROP, 4]."""
    found = []
    for mirrored in (picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
        for scale in SCALES:
            across, down = (max(1, round(scale * min(width, height) / side * CROP)) for side in (width, height))
            small = mirrored.resize((across, down), Image.Resampling.BOX)
            for dx in SHIFTS:
                for dy in SHIFTS:
                    layer = Image.new("RGBA", (CROP, CROP))
                    layer.paste(small, (round((CROP - across) / 2 + dx * CROP), round((CROP - down) / 2 + dy * CROP)))
                    found.append(np.asarray(layer, np.float32) / 255)
    return np.stack(found)


def distances(
    edited: Pixels, scene: Scene, concepts: Sequence[Concept], pictures: Mapping[str, Image.Image]
) -> dict[str, float]:
    """Mean squared error, inside the mask, of the edit to the nearest drawing of each concept, by label.

    Args:
        edited: [S, S, 3] in 0..1.
    """
    rows, columns = np.flatnonzero(scene.mask.any(1)), np.flatnonzero(scene.mask.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    found, behind = _crop(edited, box), _crop(scene.background, box)
    weight = _crop(scene.mask[..., None].repeat(3, 2), box)[..., :1]
    result = {}
    for concept in concepts:
        if concept.kind == "shape":
            picture = draw_shape(concept.code, concept.colour, 64, np.random.default_rng(0))
        else:
            picture = pictures[concept.code]
        drawn = _drawings(picture, box[2] - box[0], box[3] - box[1])
        composites = behind * (1 - drawn[..., 3:]) + drawn[..., :3] * drawn[..., 3:]
        errors = ((composites - found) ** 2 * weight).sum((1, 2, 3)) / (3 * weight.sum())
        result[concept.label] = float(errors.min())
    return result


def rank(label: str, found: Mapping[str, float]) -> int:
    """Place of the label when concepts are ordered by distance; 0 is the nearest."""
    return sum(distance < found[label] for distance in found.values())
