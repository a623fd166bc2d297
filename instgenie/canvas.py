"""Pixels between the upload and the model's canvas."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from instgenie.mask import Mask
from instgenie.window import Window

Weights = npt.NDArray[np.float32]  # [H, W], 0..1


def canvas_pixels(picture: Image.Image, window: Window) -> Image.Image:
    """The window as RGB of the canvas's size; transparency shows white."""
    part = picture.crop(window.box)
    if part.mode == "RGBA":
        white = Image.new("RGBA", part.size, "white")
        part = Image.alpha_composite(white, part)
    part = part.convert("RGB")
    size = (window.canvas_width, window.canvas_height)
    return part.resize(size, Image.Resampling.LANCZOS) if window.is_scaled else part


def canvas_mask(mask: Mask, window: Window) -> Mask:
    """The mask on the canvas: every canvas pixel that a masked pixel touches."""
    left, top, right, bottom = window.box
    part = mask[top:bottom, left:right]
    if not window.is_scaled:
        return part
    return _any_of_parts(_any_of_parts(part, window.canvas_height, 0), window.canvas_width, 1)


def _any_of_parts(mask: Mask, parts: int, axis: int) -> Mask:
    """Whether a masked pixel lies in, or partly in, each of `parts` equal parts of an axis.

    In whole numbers: Pillow's box filter leaves out pixels that lie half in a part, and by rounding some lie in none.
    """
    length = mask.shape[axis]
    start = np.arange(parts) * length // parts
    end = -(-np.arange(1, parts + 1) * length // parts)
    before = np.insert(np.cumsum(mask, axis=axis), 0, 0, axis=axis)
    masked: Mask = np.take(before, end, axis) > np.take(before, start, axis)
    return masked


def to_tensor(pixels: Image.Image) -> Tensor:
    """RGB picture -> [1, 3, H, W] float32 in -1..1."""
    array = np.array(pixels, dtype=np.float32)
    return torch.from_numpy(array).permute(2, 0, 1)[None] / 127.5 - 1


def to_picture(pixels: Tensor) -> Image.Image:
    """[1, 3, H, W] in -1..1 -> RGB picture; values beyond are clipped."""
    array = ((pixels[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(array.permute(1, 2, 0).numpy())


def paste_back(picture: Image.Image, edited: Image.Image, mask: Mask, window: Window, feather: int = 0) -> Image.Image:
    """The upload with its masked pixels taken from the edited canvas.

    Args:
        picture: RGB or RGBA upload; left as it is.
        edited: RGB canvas.
        mask: [H, W] of the upload.
        feather: width in pixels of the blend from the upload to the edit, inside the mask.
    Returns:
        A picture of the upload's mode, byte-identical to it outside the mask; opaque inside it.
    """
    if window.is_scaled:
        edited = edited.resize((window.width, window.height), Image.Resampling.BICUBIC)
    left, top, right, bottom = window.box
    weight = _feathered(mask, feather)[top:bottom, left:right, None]
    result = np.array(picture)
    part = result[top:bottom, left:right].astype(np.float32)
    new = np.full_like(part, 255)
    new[..., :3] = np.asarray(edited)
    blended = np.rint(part + weight * (new - part)).astype(np.uint8)
    result[top:bottom, left:right] = np.where(weight > 0, blended, result[top:bottom, left:right])
    return Image.fromarray(result)


def _feathered(mask: Mask, feather: int) -> Weights:
    """Weight of the edit, [H, W] in 0..1: 0 outside the mask, rising to 1 over `feather` pixels inside it."""
    weight: Weights = mask.astype(np.float32)
    if feather <= 0:
        return weight
    layer = Image.fromarray(mask.astype(np.uint8) * 255)
    steps = np.zeros_like(weight)
    for _ in range(feather):  # one pixel narrower each time: the sum is the distance to the border, cut at `feather`
        layer = layer.filter(ImageFilter.MinFilter(3))
        steps += np.asarray(layer, np.float32) / 255
    return (weight * (steps + 1) / (feather + 1)).astype(np.float32)
