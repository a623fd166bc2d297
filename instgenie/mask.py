"""Masks: from a picture to the pixels that an edit may change."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from instgenie.errors import MaskError

Mask = npt.NDArray[np.bool_]  # [H, W], True where the picture is edited
MaskMode = Literal["auto", "alpha", "luminance"]


def read_mask(picture: Image.Image, size: tuple[int, int], mode: MaskMode = "auto") -> Mask:
    """The edited pixels that a mask picture selects.

    Args:
        picture: RGB or RGBA.
        size: (width, height) of the picture that is edited.
        mode: as in `selected_pixels`.
    Raises:
        MaskError: another size than the picture's, or as `selected_pixels`.
    """
    check_mask_size(picture.size, size)
    return selected_pixels(picture, mode)


def check_mask_size(mask_size: tuple[int, int], size: tuple[int, int]) -> None:
    """Refuse a mask of another (width, height) than the picture's.

    Raises:
        MaskError: they differ.
    """
    if mask_size != size:
        raise MaskError("mask", f"{mask_size[0]}x{mask_size[1]} pixels, the picture has {size[0]}x{size[1]}")


def selected_pixels(picture: Image.Image, mode: MaskMode = "auto") -> Mask:
    """What a mask picture selects.

    Args:
        picture: RGB or RGBA.
        mode: `alpha` edits where the mask is transparent (alpha below half), `luminance` where it is white (above
            half); `auto` takes alpha if it varies, else luminance.
    Raises:
        MaskError: no alpha where alpha is asked for, or nothing selected.
    """
    alpha = np.asarray(picture.getchannel("A")) if "A" in picture.getbands() else None
    if mode == "alpha" and alpha is None:
        raise MaskError("mask", "has no alpha channel to go by")
    if alpha is not None and (mode == "alpha" or (mode == "auto" and alpha.min() != alpha.max())):
        mask, meaning = alpha < 128, "transparent"
    else:
        mask, meaning = np.asarray(picture.convert("RGB").convert("L")) > 127, "white"
    if not mask.any():
        raise MaskError("mask", f"is empty: no pixel is {meaning}, and {meaning} pixels are edited")
    return mask


def bounding_box(mask: Mask) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the selected pixels, right and bottom exclusive. The mask is not empty."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
