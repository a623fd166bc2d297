"""Draw the sample templates and masks that the package carries, from the pictures of the embedded model's concepts.

python scripts/make_samples.py [--out instgenie/builtin/samples]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from builtin_recipe.pictures import load_atlas
from builtin_recipe.scenes import Pixels, put
from instgenie.checkpoint import BUILTIN

SIZE = 384


@dataclass(frozen=True, slots=True)
class Sample:
    """A template: two vertical gradients that meet at `horizon`, and things at (code, side, left, top)."""

    name: str
    upper: tuple[str, str]
    lower: tuple[str, str]
    horizon: float
    things: tuple[tuple[str, int, int, int], ...]
    mask: tuple[int, int, int, int]
    round_mask: bool = False


SAMPLES = (
    Sample(
        "table",
        ("#f3e3cf", "#e8cfae"),
        ("#a9713f", "#8a5a30"),
        0.58,
        (("2615", 104, 40, 150), ("1f354", 96, 246, 190)),
        (146, 150, 240, 250),
    ),
    Sample(
        "meadow",
        ("#8ec9f2", "#d8eefb"),
        ("#7cc46a", "#4f9a45"),
        0.62,
        (("1f332", 120, 14, 130), ("1f3e0", 108, 262, 148)),
        (136, 216, 244, 324),
        round_mask=True,
    ),
    Sample(
        "sky", ("#5aa6e8", "#a9d6f7"), ("#a9d6f7", "#e2f3fd"), 0.5, (("1f388", 110, 120, 110),), (106, 96, 244, 234)
    ),
)


def gradient(size: tuple[int, int], colours: tuple[str, str]) -> Image.Image:
    """A vertical gradient of width x height pixels."""
    mix = Image.linear_gradient("L").resize(size)
    return Image.composite(Image.new("RGB", size, colours[1]), Image.new("RGB", size, colours[0]), mix)


def draw(sample: Sample) -> tuple[Image.Image, Image.Image]:
    """Template (RGB) and mask (L, white = edited)."""
    horizon = round(SIZE * sample.horizon)
    picture = Image.new("RGB", (SIZE, SIZE))
    picture.paste(gradient((SIZE, horizon), sample.upper))
    picture.paste(gradient((SIZE, SIZE - horizon), sample.lower), (0, horizon))
    scene: Pixels = np.asarray(picture, np.float32) / np.float32(255)
    pictures = load_atlas()
    for code, side, left, top in sample.things:
        scene = put(scene, pictures[code].resize((side, side), Image.Resampling.LANCZOS), left, top)
    mask = Image.new("L", (SIZE, SIZE), 0)
    pen = ImageDraw.Draw(mask)
    (pen.ellipse if sample.round_mask else pen.rectangle)(sample.mask, fill=255)
    return Image.fromarray(np.rint(scene * 255).astype(np.uint8)), mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=BUILTIN / "samples")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for sample in SAMPLES:
        template, mask = draw(sample)
        template.save(options.out / f"{sample.name}_template.png", optimize=True)
        mask.save(options.out / f"{sample.name}_mask.png", optimize=True)


if __name__ == "__main__":
    main()
