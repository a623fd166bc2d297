"""Pixels between the upload and the model's canvas."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from instgenie.mask import Mask, bounding_box
from instgenie.window import Window

Weights = npt.NDArray[np.float32]  # [H, W] or [H, W, 1], 0..1
Channels = npt.NDArray[np.uint8]  # [H, W, C]
_STRIP_ROWS = 64  # blended at a time: as floats, all of a 64 megapixel upload would take gigabytes


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
    bounds = np.stack([start, end], axis=1).ravel()  # reduced from each to the next: every second one is a part
    lines = np.moveaxis(mask, axis, 0)
    padded = np.concatenate([lines, np.zeros_like(lines[:1])])  # the last end is an index too
    return np.moveaxis(np.logical_or.reduceat(padded, bounds)[::2], 0, axis)


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
        mask: [H, W] of the upload, all of it in the window.
        feather: width in pixels of the blend from the upload to the edit, inside the mask.
    Returns:
        A picture of the upload's mode and colour profile, byte-identical to it outside the mask; opaque inside it.
    """
    if window.is_scaled:
        edited = edited.resize((window.width, window.height), Image.Resampling.BICUBIC)
    left, top, right, bottom = bounding_box(mask)
    new = np.asarray(edited)[top - window.top : bottom - window.top, left - window.left : right - window.left]
    result = np.array(picture)
    part = result[top:bottom, left:right]
    weight = feathered(mask, feather)
    for start in range(0, len(part), _STRIP_ROWS):
        rows = slice(start, start + _STRIP_ROWS)
        np.copyto(part[rows], _blend(part[rows], new[rows], weight[rows, :, None]), where=weight[rows, :, None] > 0)
    pasted = Image.fromarray(result)
    if "icc_profile" in picture.info:
        pasted.info["icc_profile"] = picture.info["icc_profile"]
    return pasted


def _blend(old: Channels, new: Channels, weight: Weights) -> Channels:
    """From the old pixels, RGB or RGBA, to the new ones, RGB and opaque.

    Alpha is blended with colours premultiplied: a transparent pixel has no colour that could show at the seam.

    Args:
        old: [H, W, 3] or [H, W, 4].
        new: [H, W, 3].
        weight: [H, W, 1] of the new pixels.
    """
    before, after = old.astype(np.float32), new.astype(np.float32)
    blended = before[..., :3] + weight * (after - before[..., :3])
    if old.shape[-1] == 4:
        share = before[..., 3:] * (1 - weight)  # of the old colour
        alpha = share + 255 * weight
        colour = (share * before[..., :3] + 255 * weight * after) / np.maximum(alpha, 1e-6)
        blended = np.concatenate([colour, alpha], axis=-1)
    rounded: Channels = np.rint(blended).astype(np.uint8)
    return rounded


def feathered(mask: Mask, feather: int) -> Weights:
    """Weight of the edit inside the mask's bounding box, 0..1: 0 outside the mask, rising to 1 over `feather` pixels.

    The distance to the outside is counted in king's moves; the picture's border is no outside.
    """
    left, top, right, bottom = bounding_box(mask)
    if feather <= 0:
        return mask[top:bottom, left:right].astype(np.float32)
    x0, y0 = max(0, left - 1), max(0, top - 1)  # a pixel more: what lies round the box is outside
    part = mask[y0 : bottom + 1, x0 : right + 1]
    distance = _king_distance(part, feather + 1)[top - y0 :, left - x0 :][: bottom - top, : right - left]
    return distance.astype(np.float32) / np.float32(feather + 1)


def _king_distance(mask: Mask, limit: int) -> npt.NDArray[np.int32]:
    """King's moves from each pixel to the nearest one that is not set, at most `limit`.

    Two passes over the rows, down and up (Rosenfeld and Pfaltz, 1966); the moves along a row are one running minimum.
    """
    distance = np.where(mask, np.int32(limit), np.int32(0))
    columns = np.arange(mask.shape[1], dtype=np.int32)
    for turned in (distance, distance[::-1, ::-1]):
        above = np.full(mask.shape[1] + 2, limit, np.int32)  # with a column more on either side
        for row in turned:
            nearest = np.minimum(np.minimum(above[:-2], above[2:]), above[1:-1]) + 1
            np.minimum(row, nearest, out=row)
            np.minimum(row, np.minimum.accumulate(row - columns) + columns, out=row)
            above[1:-1] = row
    return distance
