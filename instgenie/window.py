"""Which part of a picture the model sees, and at what size.

A picture larger than the model's canvas is edited in a window round the mask. Windows come from a fixed ladder of
sizes on a fixed, overlapping grid, so that edits in the same place see the same window and share its records.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

CONTEXT = 1.5  # a window's side is at least so many times the longer side of what is edited
_LADDER = math.sqrt(2)
_STRIDES_PER_SIDE = 4

Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom exclusive


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the picture (`left` ... `height`, in its pixels) and the canvas it is scaled to."""

    left: int
    top: int
    width: int
    height: int
    canvas_width: int
    canvas_height: int

    @property
    def box(self) -> Box:
        """The part as a box."""
        return self.left, self.top, self.left + self.width, self.top + self.height

    @property
    def is_scaled(self) -> bool:
        """Whether the canvas has another size than the part."""
        return (self.width, self.height) != (self.canvas_width, self.canvas_height)


def choose_window(width: int, height: int, edited: Box, patch: int, canvas_tokens: int) -> Window:
    """The smallest window of the grid that holds what is edited with context around it, else the whole picture.

    Args:
        width, height: of the picture, in pixels.
        edited: box round the mask.
        patch: side of a token in pixels.
        canvas_tokens: tokens that the model works best at; the canvas has about as many.
    """
    needed = CONTEXT * max(edited[2] - edited[0], edited[3] - edited[1])
    for extent in _extents(width, height, patch, canvas_tokens):
        if extent >= needed:
            left = _grid_offset(edited[0], edited[2], extent, width)
            top = _grid_offset(edited[1], edited[3], extent, height)
            return Window(left, top, extent, extent, *_canvas(extent, extent, patch, canvas_tokens))
    return Window(0, 0, width, height, *_canvas(width, height, patch, canvas_tokens))


def all_windows(width: int, height: int, patch: int, canvas_tokens: int) -> list[Window]:
    """Every window that `choose_window` can give for a picture of this size, the largest first."""
    windows = [Window(0, 0, width, height, *_canvas(width, height, patch, canvas_tokens))]
    for extent in reversed(_extents(width, height, patch, canvas_tokens)):
        canvas = _canvas(extent, extent, patch, canvas_tokens)
        windows += [
            Window(left, top, extent, extent, *canvas)
            for top in _grid_offsets(extent, height)
            for left in _grid_offsets(extent, width)
        ]
    return windows


def _extents(width: int, height: int, patch: int, canvas_tokens: int) -> list[int]:
    """Sides of the windows of a picture, smallest first; none where the whole picture is about a canvas."""
    side = patch * math.sqrt(canvas_tokens)
    if width * height <= 1.5 * side**2:
        return []
    extents = []
    while side < min(width, height):
        extents.append(round(side))
        side *= _LADDER
    return extents


def _grid_offsets(extent: int, length: int) -> list[int]:
    """All grid positions of a window along a side of the picture."""
    stride = max(1, extent // _STRIDES_PER_SIDE)
    last = length - extent
    return sorted({*range(0, last, stride), last})


def _grid_offset(start: int, end: int, extent: int, length: int) -> int:
    """The grid position whose window is best centred on start..end; its stride is a quarter of the window."""
    stride = max(1, extent // _STRIDES_PER_SIDE)
    wanted = (start + end - extent) / 2
    return min(max(round(wanted / stride) * stride, 0), length - extent)


def _canvas(width: int, height: int, patch: int, canvas_tokens: int) -> tuple[int, int]:
    """Canvas size of a part: its shape, about `canvas_tokens` tokens, whole tokens on each side."""
    if width % patch == 0 and height % patch == 0 and width * height == canvas_tokens * patch**2:
        return width, height
    scale = math.sqrt(canvas_tokens / (width * height))
    return max(2, round(width * scale)) * patch, max(2, round(height * scale)) * patch
