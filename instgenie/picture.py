"""Reading pictures: limits before decoding, one orientation, RGB or RGBA afterwards."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from instgenie.errors import PictureError, TooManyPixelsError

MIN_SIDE_PIXELS = 16
MAX_PIXELS = 64_000_000
MAX_ASPECT = 8
_FORMATS = ("PNG", "JPEG", "WEBP")
# What Pillow raises where bytes are not what they should be.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, struct.error)
_JPEG_START = b"\xff\xd8\xff"
_METADATA = (b"\xe1", b"\xed")  # markers of the segments with EXIF or XMP, and with Photoshop's resources
_NO_LENGTH = (b"", b"\xff", b"\xda")  # the end of the file, a fill byte, and the start of the pixels
_TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_picture(
    source: bytes | Path, parameter: str, admit: Callable[[int, int], None] = lambda _width, _height: None
) -> Image.Image:
    """Read a PNG, JPEG or WebP.

    The format is known by the content; EXIF orientation is applied; of an animation the first frame is taken.

    Args:
        source: the file's bytes or its path.
        parameter: name of the input, for error messages.
        admit: called with width and height before the pixels are decoded; what it raises ends the reading.
    Returns:
        An RGB or RGBA picture, decoded.
    Raises:
        TooManyPixelsError: more than `MAX_PIXELS`.
        PictureError: not such a file, cut short, or of a size outside the other limits.
    """
    name = f"{source}: " if isinstance(source, Path) else ""
    try:
        with _open(source) as picture:
            _check_size(picture.width, picture.height, parameter)
            admit(picture.width, picture.height)
            picture.load()
            return _to_rgb(_upright(picture))
    except UnidentifiedImageError as error:
        raise PictureError(parameter, f"{name}not a PNG, JPEG or WebP picture") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # Pillow's own, higher limits
        raise TooManyPixelsError(parameter, f"{name}more than {MAX_PIXELS:,} pixels") from error
    except _BROKEN as error:
        raise PictureError(parameter, f"{name}cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _open(source: bytes | Path) -> Image.Image:
    """The picture, not decoded yet. Pillow takes a JPEG's resolution from its EXIF here: an odd one fails it all."""
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS)
    except UnidentifiedImageError:
        if not _start(source).startswith(_JPEG_START):
            raise
        data = source if isinstance(source, bytes) else source.read_bytes()
        return Image.open(io.BytesIO(_without_metadata(data)), formats=_FORMATS)


def _start(source: bytes | Path) -> bytes:
    if isinstance(source, bytes):
        return source[: len(_JPEG_START)]
    with source.open("rb") as file:
        return file.read(len(_JPEG_START))


def _without_metadata(jpeg: bytes) -> bytes:
    """The JPEG without its EXIF, XMP and Photoshop segments; from where it is no JPEG any more, as it is."""
    kept, position = [jpeg[:2]], 2
    while jpeg[position : position + 1] == b"\xff" and (marker := jpeg[position + 1 : position + 2]) not in _NO_LENGTH:
        end = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4])
        if marker not in _METADATA:
            kept.append(jpeg[position:end])
        position = end
    return b"".join(kept) + jpeg[position:]


def _check_size(width: int, height: int, parameter: str) -> None:
    size = f"{width}x{height} pixels"
    if width * height > MAX_PIXELS:
        raise TooManyPixelsError(parameter, f"{size} are more than {MAX_PIXELS:,}")
    if min(width, height) < MIN_SIDE_PIXELS:
        raise PictureError(parameter, f"{size}: a side is shorter than {MIN_SIDE_PIXELS}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise PictureError(parameter, f"{size}: longer than {MAX_ASPECT}:1")


def _upright(picture: Image.Image) -> Image.Image:
    """A copy, turned as EXIF says. `ImageOps.exif_transpose` writes the EXIF anew too, and fails where a tag is odd."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except _BROKEN:  # of the metadata alone: the pixels are there
        orientation = 1
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    upright = picture.copy() if turn is None else picture.transpose(turn)
    upright.info.pop("exif", None)
    return upright


def _to_rgb(picture: Image.Image) -> Image.Image:
    """RGB, or RGBA where the picture has transparency; 16-bit grey is scaled, not clipped."""
    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.asarray(picture, np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if picture.mode != "RGB" or picture.has_transparency_data:
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    profile = picture.info.get("icc_profile")
    if profile is not None and profile[16:20] != b"RGB ":  # of a CMYK or grey picture, which is RGB now
        del picture.info["icc_profile"]
    return picture
