"""The sheet of the concepts' pictures, and what is drawn from it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from builtin_recipe.concepts import COLOURS, PICTURED, SHAPES
from builtin_recipe.pictures import ATLAS, SIDE, load_atlas, load_pictures, save_atlas
from builtin_recipe.scenes import draw_shape
from instgenie.checkpoint import BUILTIN
from make_samples import SAMPLES, draw

MAX_ATLAS_BYTES = 250_000


def test_the_atlas_has_a_picture_of_its_own_for_every_concept() -> None:
    pictures = load_atlas()
    assert list(pictures) == list(PICTURED)
    assert ATLAS.stat().st_size < MAX_ATLAS_BYTES
    small = []
    for code, picture in pictures.items():
        assert (picture.mode, picture.size) == ("RGBA", (SIDE, SIDE))
        assert np.asarray(picture.getchannel("A"), float).mean() > 0.15 * 255, code
        white = Image.new("RGBA", picture.size, "white")
        small.append(np.asarray(Image.alpha_composite(white, picture).convert("RGB").resize((16, 16)), float))
    apart = [np.abs(a - b).mean() for i, a in enumerate(small) for b in small[:i]]
    assert min(apart) > 8  # levels; the nearest two are a dozen apart


def test_pages_that_are_added_leave_the_others_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = ((f"{colour} {shape}", draw_shape(shape, colour, SIDE, rng)) for shape in SHAPES for colour in COLOURS)
    pictures = dict(islice(drawn, 26))
    full_page = dict(list(pictures.items())[:24])
    save_atlas(full_page, tmp_path / "one.webp")
    save_atlas(pictures, tmp_path / "two.webp")
    before, after = load_atlas(tmp_path / "one.webp", full_page), load_atlas(tmp_path / "two.webp", pictures)
    assert list(after) == list(pictures)
    assert all(after[code].tobytes() == picture.tobytes() for code, picture in before.items())
    for code, picture in after.items():
        error = np.abs(np.asarray(picture, float) - np.asarray(pictures[code], float))
        assert error[..., 3].mean() < 4, code


def test_source_pictures_are_cropped_to_what_is_opaque(tmp_path: Path) -> None:
    source = Image.new("RGBA", (64, 64))
    source.paste((200, 0, 0, 255), (10, 20, 30, 30))  # twice as wide as high
    source.save(tmp_path / "2601-fe0f.webp", lossless=True)
    picture = load_pictures(tmp_path, {"2601": ()})["2601"]
    assert picture.size == (SIDE, SIDE)
    left, top, right, bottom = picture.getchannel("A").point(lambda a: 255 * (a > 127)).getbbox() or (0, 0, 0, 0)
    assert (left, right) == (0, SIDE)
    assert (top, bottom) == pytest.approx((SIDE / 4, 3 * SIDE / 4), abs=1)


def test_a_missing_source_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="code point 1f34e"):
        load_pictures(tmp_path)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_the_packaged_samples_are_the_ones_drawn_from_the_atlas(sample: object) -> None:
    (found,) = [s for s in SAMPLES if s is sample]
    for picture, part in zip(draw(found), ("template", "mask"), strict=True):
        packaged = Image.open(BUILTIN / "samples" / f"{found.name}_{part}.png")
        assert packaged.mode == picture.mode
        off = np.abs(np.asarray(packaged, int) - np.asarray(picture, int))
        assert off.max() <= 2  # levels, for another version of Pillow may resample a little differently
