"""Masks from pictures."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from instgenie.errors import InvalidInputError, MaskError
from instgenie.mask import Mask, MaskMode, bounding_box, read_mask

SIZE = (6, 4)


def grey(values: object) -> Image.Image:
    """An RGB picture of SIZE from grey values."""
    return Image.fromarray(np.broadcast_to(np.array(values, np.uint8), SIZE[::-1]).copy()).convert("RGB")


def with_alpha(luminance: object, alpha: object) -> Image.Image:
    """An RGBA picture of SIZE."""
    picture = grey(luminance)
    picture.putalpha(grey(alpha).convert("L"))
    return picture


RISING = [0, 127, 128, 129, 255, 255]


@pytest.mark.parametrize("mode", ["auto", "luminance"])
def test_white_is_edited(mode: MaskMode) -> None:
    mask = read_mask(grey(RISING), SIZE, mode)
    assert mask.dtype == np.bool_
    assert mask.shape == (4, 6)
    assert mask[0].tolist() == [False, False, True, True, True, True]


@pytest.mark.parametrize("mode", ["auto", "alpha"])
def test_transparent_is_edited(mode: MaskMode) -> None:
    mask = read_mask(with_alpha(255, RISING), SIZE, mode)
    assert mask[0].tolist() == [True, True, False, False, False, False]


def test_luminance_can_be_asked_for_where_alpha_varies() -> None:
    picture = with_alpha([255, 0, 0, 0, 0, 0], [255, 255, 255, 0, 0, 0])
    assert read_mask(picture, SIZE, "luminance")[0].tolist() == [True, False, False, False, False, False]


@pytest.mark.parametrize("alpha", [255, 0, 128])
def test_alpha_that_does_not_vary_is_not_gone_by(alpha: int) -> None:
    assert read_mask(with_alpha([255, 0, 0, 0, 0, 0], alpha), SIZE)[0].tolist() == [True] + 5 * [False]


def test_alpha_that_does_not_vary_can_be_asked_for() -> None:
    assert read_mask(with_alpha(0, 0), SIZE, "alpha").all()


def test_colours_count_by_their_luminance() -> None:
    picture = grey(0)
    picture.paste((0, 255, 0), (0, 0, 1, 4))  # luminance 150
    picture.paste((0, 0, 255), (1, 0, 2, 4))  # luminance 29
    assert read_mask(picture, SIZE)[0].tolist() == [True] + 5 * [False]


@pytest.mark.parametrize("mode", get_args(MaskMode))
def test_another_size(mode: MaskMode) -> None:
    with pytest.raises(MaskError, match="mask: 6x4 pixels, the picture has 4x6"):
        read_mask(with_alpha(255, RISING), (4, 6), mode)


def test_alpha_asked_for_where_there_is_none() -> None:
    with pytest.raises(MaskError, match="no alpha channel"):
        read_mask(grey(255), SIZE, "alpha")


@pytest.mark.parametrize(
    ("picture", "mode", "meaning"),
    [
        (grey(127), "auto", "white"),
        (with_alpha(255, 255), "alpha", "transparent"),
        (with_alpha(255, [128, 255] * 3), "auto", "transparent"),
        (with_alpha(0, RISING), "luminance", "white"),
    ],
)
def test_empty_mask(picture: Image.Image, mode: MaskMode, meaning: str) -> None:
    with pytest.raises(MaskError, match=f"empty: no pixel is {meaning}") as caught:
        read_mask(picture, SIZE, mode)
    assert isinstance(caught.value, InvalidInputError)
    assert caught.value.parameter == "mask"


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_bounding_box(height: int, width: int, data: st.DataObject) -> None:
    pixels = data.draw(st.sets(st.tuples(st.integers(0, height - 1), st.integers(0, width - 1)), min_size=1))
    mask: Mask = np.zeros((height, width), bool)
    for y, x in pixels:
        mask[y, x] = True
    rows, columns = [y for y, _ in pixels], [x for _, x in pixels]
    assert bounding_box(mask) == (min(columns), min(rows), max(columns) + 1, max(rows) + 1)
