"""Likeness of two edits."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from instgenie_server.cli.comparison import Comparison, psnr_db


def test_psnr_counts_masked_pixels_only() -> None:
    one, other = Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4), (10, 10, 10))
    other.putpixel((0, 0), (255, 255, 255))
    mask = np.ones((4, 4), bool)
    mask[0, 0] = False
    assert psnr_db(one, other, mask) == pytest.approx(20 * np.log10(25.5))


def test_psnr_of_identical_pictures() -> None:
    picture = Image.new("RGBA", (4, 4))
    assert psnr_db(picture, picture, np.ones((4, 4), bool)) is None


def test_speedup() -> None:
    assert Comparison(dense_ms=10, cached_ms=4, psnr_in_mask_db=None).speedup == 2.5
