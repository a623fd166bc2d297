"""Pictures of every kind that is taken, and of many that are not."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from instgenie.errors import PictureError, TooManyPixelsError
from instgenie.picture import MAX_ASPECT, MAX_PIXELS, MIN_SIDE_PIXELS, open_picture


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The picture as a file's bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def array(picture: Image.Image) -> npt.NDArray[np.uint8]:
    """[H, W, C]."""
    return np.asarray(picture)


def random_picture(mode: str = "RGB", width: int = 24, height: int = 18) -> Image.Image:
    """A picture of random pixels, of mode RGB or RGBA."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, len(mode)), np.uint8))


def png_header(width: int, height: int) -> bytes:
    """A PNG of that size, whose pixels are not there."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checked = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + checked + struct.pack(">I", 8) + b"IDAT"


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_lossless_formats_come_back_bit_by_bit(kind: str, options: dict[str, object], mode: str) -> None:
    picture = random_picture(mode)
    opened = open_picture(encoded(picture, kind, **options), "image")
    assert opened.mode == mode
    assert np.array_equal(array(opened), array(picture))


def test_jpeg() -> None:
    opened = open_picture(encoded(Image.new("RGB", (40, 30), (200, 100, 50)), "JPEG"), "image")
    assert (opened.mode, opened.size) == ("RGB", (40, 30))
    assert np.abs(array(opened)[15, 20].astype(int) - (200, 100, 50)).max() <= 3


def test_file_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(encoded(random_picture()))
    assert np.array_equal(array(open_picture(path, "image")), array(random_picture()))


def test_grey() -> None:
    values = np.arange(18 * 24, dtype=np.uint16).reshape(18, 24).astype(np.uint8)
    opened = open_picture(encoded(Image.fromarray(values)), "image")
    assert opened.mode == "RGB"
    assert np.array_equal(array(opened), np.repeat(values[..., None], 3, axis=2))


def test_16_bit_grey_is_scaled() -> None:
    values = np.linspace(0, 65535, 18 * 24).astype(np.uint16).reshape(18, 24)
    opened = open_picture(encoded(Image.fromarray(values)), "image")
    assert opened.mode == "RGB"
    assert np.array_equal(array(opened), np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_grey_with_alpha() -> None:
    opened = open_picture(encoded(Image.new("LA", (20, 20), (90, 30))), "image")
    assert (opened.mode, opened.getpixel((3, 3))) == ("RGBA", (90, 90, 90, 30))


def test_black_and_white() -> None:
    opened = open_picture(encoded(Image.new("1", (20, 20), 1)), "image")
    assert (opened.mode, opened.getpixel((3, 3))) == ("RGB", (255, 255, 255))


def palette_picture() -> Image.Image:
    """Colour 0 on the left, colour 1 on the right."""
    picture = Image.new("P", (20, 20))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.paste(1, (10, 0, 20, 20))
    return picture


def test_palette() -> None:
    opened = open_picture(encoded(palette_picture()), "image")
    assert opened.mode == "RGB"
    assert (opened.getpixel((0, 0)), opened.getpixel((19, 0))) == ((10, 20, 30), (200, 100, 50))


def test_palette_with_transparency() -> None:
    opened = open_picture(encoded(palette_picture(), transparency=1), "image")
    assert opened.mode == "RGBA"
    assert (opened.getpixel((0, 0)), opened.getpixel((19, 0))) == ((10, 20, 30, 255), (200, 100, 50, 0))


def test_transparent_colour() -> None:
    opened = open_picture(encoded(Image.new("RGB", (20, 20), (9, 8, 7)), transparency=(9, 8, 7)), "image")
    assert (opened.mode, opened.getpixel((3, 3))) == ("RGBA", (9, 8, 7, 0))


def test_cmyk_jpeg() -> None:
    opened = open_picture(encoded(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG"), "image")
    assert opened.mode == "RGB"
    red, green, blue = array(opened)[16, 16].tolist()
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [
        (1, (0, 0)),
        (2, (39, 0)),
        (3, (39, 19)),
        (4, (0, 19)),
        (5, (0, 0)),
        (6, (19, 0)),
        (7, (19, 39)),
        (8, (0, 39)),
        (9, (0, 0)),
    ],
)
def test_exif_orientation_is_applied(orientation: int, corner: tuple[int, int]) -> None:
    picture = Image.new("RGB", (40, 20), "black")
    picture.paste("white", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[274] = orientation
    opened = open_picture(encoded(picture, "JPEG", exif=exif), "image")
    assert opened.size == ((40, 20) if orientation not in range(5, 9) else (20, 40))
    assert array(opened)[corner[1], corner[0], 0] > 200
    assert (array(opened)[..., 0] > 128).mean() == pytest.approx(64 / 800, abs=0.01)


@pytest.mark.parametrize("tag", [258, 271, 274, 282, 306, 330, 34665, 34853, 37500, 40965])
def test_odd_exif_keeps_no_picture_from_being_read(tag: int) -> None:
    """Tags of types that they should not have: cameras and editors write such things."""
    picture = Image.new("RGB", (40, 20), "red")
    for kind in range(14):
        tags = sorted([(274, 3, 1, b"\0\x06\0\0"), (tag, kind, 1, b"\0\x01\0\0")])
        packed = b"".join(struct.pack(">HHI4s", *entry) for entry in tags)
        exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(tags)) + packed + bytes(4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = open_picture(encoded(picture, "JPEG", exif=exif), "image")
        assert opened.size in ((20, 40), (40, 20))  # where a tag cannot be read, neither can those after it


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    opened = open_picture(data, "image")
    assert opened.convert("RGB").getpixel((5, 5)) == (255, 0, 0)


def refused(source: bytes | Path, message: str, kind: type[PictureError] = PictureError) -> None:
    """Expect an error of just that kind, which names the parameter."""
    with pytest.raises(PictureError, match=message) as caught:
        open_picture(source, "the_upload")
    assert type(caught.value) is kind
    assert caught.value.parameter == "the_upload"
    assert str(caught.value).startswith("the_upload: ")


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats(kind: str) -> None:
    refused(encoded(random_picture(), kind), "not a PNG, JPEG or WebP picture")


@pytest.mark.parametrize("data", [b"", b"\0", b"hello", b"\x89PNG\r\n\x1a\n", b"<svg/>"], ids=repr)
def test_not_a_picture(data: bytes) -> None:
    refused(data, "the_upload: not a PNG, JPEG or WebP picture")


def test_file_that_cannot_be_opened(tmp_path: Path) -> None:
    refused(tmp_path / "missing.png", "missing.png: cannot be read")
    refused(tmp_path, "cannot be read")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_file_cut_short(kind: str) -> None:
    data = encoded(random_picture(width=64, height=64), kind)
    refused(data[: len(data) // 2], "the_upload: cannot be read: ")


def test_one_pixel() -> None:
    refused(encoded(Image.new("RGB", (1, 1))), "1x1 pixels: a side is shorter than 16")


def test_smallest_and_longest() -> None:
    side = MIN_SIDE_PIXELS
    assert open_picture(encoded(Image.new("RGB", (side, side))), "image").size == (side, side)
    refused(encoded(Image.new("RGB", (side, side - 1))), f"a side is shorter than {side}")
    longest = MAX_ASPECT * side
    assert open_picture(encoded(Image.new("RGB", (longest, side))), "image").size == (longest, side)
    refused(encoded(Image.new("RGB", (side, longest + 1))), "longer than 8:1")


@pytest.mark.parametrize("size", [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (8_001, 8_000)])
def test_huge_picture_is_refused_by_its_header(size: tuple[int, int]) -> None:
    refused(png_header(*size), f"{MAX_PIXELS:,}", TooManyPixelsError)


def test_largest_picture_passes_the_size_check() -> None:
    refused(png_header(8_000, 8_000), "cannot be read")


@pytest.mark.parametrize("make", [encoded, lambda p: encoded(p, "JPEG"), lambda p: encoded(p, "WEBP")])
def test_mutated_files_are_read_or_refused(make: Callable[[Image.Image], bytes]) -> None:
    exif = Image.Exif()
    exif[274] = 6
    picture = random_picture()
    picture.info["exif"] = exif.tobytes()
    data = make(picture)

    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), min_size=1, max_size=8))
    def check(edits: list[tuple[int, int]]) -> None:
        mutated = bytearray(data)
        for position, byte in edits:
            mutated[position] = byte
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                opened = open_picture(bytes(mutated), "image")
            except PictureError:
                return
        assert opened.mode in ("RGB", "RGBA")

    check()


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0II*\0", b"Exif\0\0MM", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + 40 * b"\xff"]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_metadata_does_not_spoil_a_picture(exif: bytes, kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (32, 20), "teal").save(file, kind, exif=exif)
    assert open_picture(file.getvalue(), "image").size == (32, 20)


def jpeg_with_exif(*tags: tuple[int, int, int, bytes], pixels: Image.Image) -> bytes:
    """A JPEG without a JFIF header, as cameras write it, whose EXIF has these tags: number, type, count, value."""
    packed = b"".join(struct.pack(">HHI4s", *tag) for tag in tags)
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(tags)) + packed + bytes(4)
    data = encoded(pixels, "JPEG")
    jfif_end = 4 + int.from_bytes(data[4:6])
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[jfif_end:]


@pytest.mark.parametrize("is_file", [False, True])
@pytest.mark.parametrize("kind", [1, 2, 7])
def test_resolution_that_is_no_number_does_not_spoil_a_jpeg(kind: int, is_file: bool, tmp_path: Path) -> None:
    pixels = Image.new("RGB", (32, 20), "teal")
    data = jpeg_with_exif((282, kind, 1, bytes(4)), (296, 3, 1, b"\0\2\0\0"), pixels=pixels)
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    opened = open_picture(path if is_file else data, "image")
    assert np.array_equal(array(opened), array(open_picture(encoded(pixels, "JPEG"), "image")))


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([258, 271, 274, 282, 283, 296, 306, 330, 34665, 34853, 37500, 40965]),
            st.integers(0, 15),
            st.sampled_from([0, 1, 2, 7, 2**16, 2**32 - 1]),
            st.binary(min_size=4, max_size=4),
        ),
        max_size=6,
    )
)
def test_no_exif_spoils_a_jpeg(tags: list[tuple[int, int, int, bytes]]) -> None:
    opened = open_picture(jpeg_with_exif(*tags, pixels=Image.new("RGB", (32, 20), "teal")), "image")
    assert opened.size in ((32, 20), (20, 32))


def test_profile_of_another_colour_space_is_dropped() -> None:
    for space, is_kept in ((b"RGB ", True), (b"CMYK", False), (b"GRAY", False)):
        file = io.BytesIO()
        profile = bytes(16) + space + bytes(108)
        Image.new("RGB", (32, 20)).save(file, "PNG", icc_profile=profile)
        assert ("icc_profile" in open_picture(file.getvalue(), "image").info) == is_kept


@cache
def a_file(kind: str) -> bytes:
    """A picture with metadata."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, exif=exif, icc_profile=bytes(128))
    return file.getvalue()


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), st.data())
def test_damaged_files_are_a_picture_or_an_error_of_ours(kind: str, data: st.DataObject) -> None:
    content = bytearray(a_file(kind))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.none(), st.integers(0, len(content))))
    with suppress(PictureError):
        assert open_picture(bytes(content[:end]), "image").mode in ("RGB", "RGBA")


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8 "]), st.binary(max_size=200))
def test_garbage_is_an_error_of_ours(start: bytes, rest: bytes) -> None:
    with pytest.raises(PictureError):
        open_picture(start + rest, "image")
