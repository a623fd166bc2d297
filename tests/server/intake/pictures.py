"""Picture files of many kinds."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

RED = (220, 30, 40)


def encoded(picture: Image.Image, file_format: str, **settings: Any) -> bytes:
    """The picture as a file."""
    file = io.BytesIO()
    picture.save(file, file_format, **settings)
    return file.getvalue()


def png(picture: Image.Image, **settings: Any) -> bytes:
    """The picture as a PNG."""
    return encoded(picture, "PNG", **settings)


def noise(width: int, height: int) -> Image.Image:
    """An RGB picture of noise."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def assert_alike(one: bytes, other: bytes) -> None:
    """Two files of the same edit: by what else is in the batch, sums are rounded in another order."""
    first, second = (Image.open(io.BytesIO(file)) for file in (one, other))
    assert (first.format, first.mode, first.size) == (second.format, second.mode, second.size)
    levels = np.abs(np.asarray(first).astype(int) - np.asarray(second).astype(int))
    if first.format == "PNG":
        assert levels.max() <= 2
    else:  # a lossy file spreads a level over its block
        assert levels.mean() <= 1


def halves(width: int, height: int, left: int, right: int) -> Image.Image:
    """A grey picture whose halves have those values."""
    pixels = np.full((height, width), left, np.uint8)
    pixels[:, width // 2 :] = right
    return Image.fromarray(pixels)


def raw_png(width: int, height: int, depth: int, colour_type: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG from its fields, which nobody checks; `extra` are chunks before the data, names first."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = [b"IHDR" + header, *extra, b"IDAT" + zlib.compress(rows), b"IEND"]
    framed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def profile(colour_space: bytes) -> bytes:
    """What looks like a colour profile of that space."""
    return bytes(16) + colour_space.ljust(4) + bytes(108)
