from __future__ import annotations

import asyncio
import struct
import threading
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from instgenie.errors import MaskError
from instgenie.orders import Pixels
from instgenie_server.api_error import ApiError
from instgenie_server.intake import decode
from instgenie_server.intake.decode import MAX_THREADS, MaskMode, PictureDecoder
from tests.server.intake.pictures import RED, encoded, halves, noise, png, profile, raw_png

PICTURE = noise(40, 30)
PIXELS = Pixels(40, 30, "RGB", PICTURE.tobytes())


@pytest.fixture
async def decoder() -> AsyncIterator[PictureDecoder]:
    decoder = PictureDecoder(30, threads=1)
    yield decoder
    decoder.close()


async def refusal(decoder: PictureDecoder, data: bytes, param: str = "image") -> ApiError:
    """The error of a picture, after a look at what all of them have in common."""
    with pytest.raises(ApiError) as caught:
        await decoder.picture(data, param)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert caught.value.message.startswith(f"{param}: ")
    return caught.value


def as_image(pixels: Pixels) -> Image.Image:
    assert len(pixels.data) == pixels.width * pixels.height * len(pixels.mode)
    return Image.frombytes(pixels.mode, (pixels.width, pixels.height), pixels.data)


async def test_lossless_pictures_keep_their_pixels(decoder: PictureDecoder) -> None:
    for data in (png(PICTURE), encoded(PICTURE, "WEBP", lossless=True)):
        assert await decoder.picture(data) == PIXELS
    clear = PICTURE.convert("RGBA")
    clear.putalpha(halves(40, 30, 0, 255))
    for data in (png(clear), encoded(clear, "WEBP", lossless=True, exact=True)):
        assert await decoder.picture(data) == Pixels(40, 30, "RGBA", clear.tobytes())


async def test_a_16_bit_grey_picture_is_scaled(decoder: PictureDecoder) -> None:
    grey = np.full((20, 20), 300, np.uint16)
    grey[:, 10:] = 51_200
    pixels = as_image(await decoder.picture(png(Image.fromarray(grey))))
    assert (pixels.getpixel((0, 0)), pixels.getpixel((15, 0))) == ((1, 1, 1), (200, 200, 200))


async def test_a_16_bit_colour_picture_is_scaled(decoder: PictureDecoder) -> None:
    rows = (b"\0" + struct.pack(">HHH", 0xC8FF, 0x0100, 0x3200) * 20) * 20
    pixels = as_image(await decoder.picture(raw_png(20, 20, 16, 2, rows)))
    assert pixels.getpixel((7, 7)) == (200, 1, 50)


async def test_a_palette_with_transparency_gets_an_alpha_channel(decoder: PictureDecoder) -> None:
    indices = halves(20, 20, 0, 1).convert("P")
    indices.putpalette([*RED, 1, 2, 3])
    pixels = await decoder.picture(png(indices))
    assert (pixels.mode, as_image(pixels).getpixel((0, 0))) == ("RGB", RED)
    pixels = await decoder.picture(png(indices, transparency=1))
    assert pixels.mode == "RGBA"
    assert as_image(pixels).getchannel("A").getpixel((19, 0)) == 0
    assert as_image(pixels).getpixel((0, 0)) == (*RED, 255)


async def test_a_cmyk_jpeg_is_rgb(decoder: PictureDecoder) -> None:
    cmyk = Image.new("RGB", (32, 32), RED).convert("CMYK")
    pixels = await decoder.picture(encoded(cmyk, "JPEG", quality=95, icc_profile=profile(b"CMYK")))
    assert pixels.mode == "RGB"
    colour = as_image(pixels).getpixel((16, 16))
    assert isinstance(colour, tuple)
    assert max(abs(a - b) for a, b in zip(colour, RED, strict=True)) < 12
    assert pixels.icc_profile is None  # a CMYK profile would spoil the RGB picture


async def test_profiles_are_kept_and_other_metadata_dropped(decoder: PictureDecoder) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a secret"
    pixels = await decoder.picture(png(PICTURE, icc_profile=profile(b"RGB"), exif=exif))
    assert pixels == Pixels(40, 30, "RGB", PICTURE.tobytes(), profile(b"RGB"))
    grey = await decoder.picture(png(PICTURE.convert("L"), icc_profile=profile(b"GRAY")))
    assert (grey.mode, grey.icc_profile) == ("RGB", None)


async def test_of_an_animation_the_first_frame_is_taken(decoder: PictureDecoder) -> None:
    frames = {"save_all": True, "append_images": [Image.new("RGB", (32, 32), "white")]}
    for data in (
        encoded(Image.new("RGB", (32, 32), RED), "WEBP", lossless=True, **frames),
        encoded(Image.new("RGB", (32, 32), RED), "PNG", **frames),
    ):
        pixels = await decoder.picture(data)
        assert (pixels.width, as_image(pixels).convert("RGB").getpixel((9, 9))) == (32, RED)


@pytest.mark.parametrize("orientation", range(1, 9))
async def test_exif_turns_the_picture(decoder: PictureDecoder, orientation: int) -> None:
    upright = Image.new("RGB", (48, 32), "white")
    upright.paste("black", (0, 0, 24, 16))  # the upper left quarter
    stored = {  # how a camera writes it, by orientation
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = await decoder.picture(encoded(stored, "JPEG", quality=95, exif=exif))
    assert (pixels.width, pixels.height) == (48, 32)
    dark = np.asarray(as_image(pixels).convert("L")) < 128
    assert dark[2:14, 2:22].all()
    assert not dark[18:, :].any()
    assert not dark[:, 26:].any()


@pytest.mark.parametrize(
    ("size", "why"),
    [((1, 1), "shorter than 16"), ((400, 1), "shorter than 16"), ((1, 400), "shorter than 16"), ((400, 20), "8:1")],
)
async def test_odd_shapes_are_refused(decoder: PictureDecoder, size: tuple[int, int], why: str) -> None:
    for data in (png(Image.new("RGB", size)), encoded(Image.new("RGB", size), "WEBP")):
        error = await refusal(decoder, data)
        assert why in error.message
        assert f"{size[0]}x{size[1]} pixels" in error.message


async def test_the_longest_allowed_shape_passes(decoder: PictureDecoder) -> None:
    assert (await decoder.picture(png(Image.new("RGB", (128, 16))))).width == 128


@pytest.mark.parametrize("side", [8001, 60_000, 2**31 - 1])
async def test_a_bomb_is_refused_by_its_header(decoder: PictureDecoder, side: int) -> None:
    error = await refusal(decoder, raw_png(side, side, 8, 2, b""))
    assert error.code == "too_many_pixels"
    assert "64,000,000" in error.message


async def test_bombs_of_other_formats_are_refused_by_their_header(decoder: PictureDecoder) -> None:
    jpeg = bytearray(encoded(Image.new("L", (16, 16)), "JPEG"))
    size_at = jpeg.index(b"\xff\xc0") + 5
    jpeg[size_at : size_at + 4] = struct.pack(">HH", 60_000, 60_000)
    webp = bytearray(encoded(noise(16, 16), "WEBP", lossless=True))
    webp[21:25] = struct.pack("<I", 16_382 | 16_382 << 14)
    for data in (bytes(jpeg), bytes(webp)):
        assert (await refusal(decoder, data)).code == "too_many_pixels"


async def test_a_bomb_of_text_is_refused(decoder: PictureDecoder) -> None:
    text = b"zTXtkey\0\0" + zlib.compress(bytes(80_000_000), 9)
    rows = (b"\0" + bytes(60)) * 20
    await refusal(decoder, raw_png(20, 20, 8, 2, rows, text))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9])
async def test_truncated_files_are_refused(decoder: PictureDecoder, file_format: str, share: float) -> None:
    data = encoded(noise(64, 64), file_format)
    await refusal(decoder, data[: int(share * len(data))])


@pytest.mark.parametrize("file_format", ["GIF", "BMP", "TIFF", "PPM", "ICO", "TGA"])
async def test_other_formats_are_refused(decoder: PictureDecoder, file_format: str) -> None:
    assert "not a PNG, JPEG or WebP" in (await refusal(decoder, encoded(PICTURE, file_format))).message


@pytest.mark.parametrize(
    "data", [b"", b"x", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"%!PS-Adobe-3.0"]
)
async def test_what_is_no_picture_is_refused(decoder: PictureDecoder, data: bytes) -> None:
    await refusal(decoder, data, "init_images")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
async def test_damaged_files_are_pictures_or_refused(decoder: PictureDecoder, data: st.DataObject) -> None:
    # Without EXIF: of damaged EXIF Pillow warns, and here warnings are errors.
    whole = data.draw(st.sampled_from([png(PICTURE), encoded(PICTURE, "JPEG"), encoded(PICTURE, "WEBP")]))
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(damaged)))
        damaged[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    (read,) = await asyncio.gather(decoder.picture(bytes(damaged)), return_exceptions=True)
    if isinstance(read, Pixels):
        as_image(read)
    else:
        assert isinstance(read, ApiError)
        assert (read.status, read.param) == (400, "image")


async def mask_of(decoder: PictureDecoder, mask: bytes, mode: MaskMode, *, invert: bool = False) -> bytes:
    """The pixels of PICTURE that a mask file selects."""
    picture, bits = await decoder.picture_and_mask(png(PICTURE), mask, mode, invert=invert)
    assert picture == PIXELS
    return bits


def columns(mask: bytes, width: int = 40) -> list[int]:
    """The columns that are edited, of a mask whose rows are alike."""
    rows = {mask[start : start + width] for start in range(0, len(mask), width)}
    (row,) = rows
    assert set(mask) <= {0, 1}
    return [x for x, value in enumerate(row) if value]


LEFT, RIGHT = list(range(20)), list(range(20, 40))
ALPHA_MASK = Image.merge("RGBA", [*Image.new("RGB", (40, 30), "white").split(), halves(40, 30, 0, 255)])


@pytest.mark.parametrize(
    ("mask", "mode", "edited"),
    [
        (halves(40, 30, 255, 0), "auto", LEFT),
        (halves(40, 30, 0, 255), "luminance", RIGHT),
        (ALPHA_MASK, "auto", LEFT),
        (ALPHA_MASK, "alpha", LEFT),
        (ALPHA_MASK, "luminance", LEFT + RIGHT),
        (halves(40, 30, 255, 0).convert("RGBA"), "auto", LEFT),  # its alpha does not vary
        (halves(40, 30, 0, 255).convert("1"), "auto", RIGHT),
    ],
)
async def test_masks_select_pixels(
    decoder: PictureDecoder, mask: Image.Image, mode: MaskMode, edited: list[int]
) -> None:
    bits = await mask_of(decoder, png(mask), mode)
    assert len(bits) == 40 * 30
    assert columns(bits) == edited


@pytest.mark.parametrize("grey", [0, 100, 127, 128, 200, 255])
async def test_an_inverted_mask_selects_the_other_pixels(decoder: PictureDecoder, grey: int) -> None:
    mask = png(halves(40, 30, grey, 0 if grey > 127 else 255))
    plain = await mask_of(decoder, mask, "luminance")
    inverted = await mask_of(decoder, mask, "luminance", invert=True)
    assert all(a + b == 1 for a, b in zip(plain, inverted, strict=True))


async def test_an_inverted_black_mask_edits_everything(decoder: PictureDecoder) -> None:
    assert columns(await mask_of(decoder, png(Image.new("L", (40, 30))), "luminance", invert=True)) == LEFT + RIGHT


async def test_without_a_mask_transparent_pixels_are_edited(decoder: PictureDecoder) -> None:
    for mode in ("auto", "alpha"):
        picture, mask = await decoder.picture_and_mask(png(ALPHA_MASK), None, mode)
        assert as_image(picture).tobytes() == ALPHA_MASK.tobytes()
        assert columns(mask) == LEFT


@pytest.mark.parametrize(
    ("picture", "mode"), [(PICTURE, "auto"), (PICTURE.convert("RGBA"), "alpha"), (ALPHA_MASK, "luminance")]
)
async def test_a_mask_is_needed_where_the_picture_has_none(
    decoder: PictureDecoder, picture: Image.Image, mode: MaskMode
) -> None:
    with pytest.raises(ApiError, match="mask: is needed") as caught:
        await decoder.picture_and_mask(png(picture), None, mode)
    assert (caught.value.status, caught.value.param) == (400, "mask")


@pytest.mark.parametrize(
    ("mask", "mode", "why"),
    [
        (png(halves(30, 40, 255, 0)), "auto", "30x40 pixels, the picture has 40x30"),
        (png(halves(40, 30, 255, 0)), "alpha", "no alpha channel"),
        (png(Image.new("L", (40, 30))), "auto", "is empty"),
        (b"no picture", "auto", "not a PNG, JPEG or WebP"),
        (png(halves(40, 30, 255, 0))[:60], "auto", "cannot be read"),
    ],
)
async def test_masks_that_cannot_be_used_are_refused(
    decoder: PictureDecoder, mask: bytes, mode: MaskMode, why: str
) -> None:
    with pytest.raises(ApiError, match=why) as caught:
        await mask_of(decoder, mask, mode)
    assert (caught.value.status, caught.value.param) == (400, "mask")


async def test_of_two_bad_files_the_picture_is_told(decoder: PictureDecoder) -> None:
    with pytest.raises(ApiError) as caught:
        await decoder.picture_and_mask(b"no picture", b"no picture", param="init_images")
    assert caught.value.param == "init_images"


async def test_picture_and_mask_are_decoded_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, both = PictureDecoder(30, threads=2), threading.Barrier(2)
    opened = decode._open

    def open_together(data: bytes, param: str, admit: Callable[[int, int], None]) -> Image.Image:
        both.wait(30)
        return opened(data, param, admit)

    monkeypatch.setattr(decode, "_open", open_together)
    picture, mask = await decoder.picture_and_mask(png(PICTURE), png(halves(40, 30, 255, 0)))
    assert picture == PIXELS
    assert columns(mask) == LEFT
    decoder.close()


async def test_memory_is_taken_before_the_pixels_are_decoded(decoder: PictureDecoder) -> None:
    taken: list[int] = []
    damaged = png(PICTURE)[:60]  # its header is there, its pixels are not
    for image, mask in ((damaged, png(halves(40, 30, 255, 0))), (png(PICTURE), png(halves(40, 30, 255, 0))[:60])):
        with pytest.raises(ApiError, match="cannot be read"):
            await decoder.picture_and_mask(image, mask, take=taken.append)
    assert sorted(taken) == [40 * 30, 40 * 30, 5 * 40 * 30, 5 * 40 * 30]

    def refuse(num_bytes: int) -> None:
        raise ApiError(429, f"no {num_bytes}", "rate_limit_error")

    with pytest.raises(ApiError, match="no 6000"):
        await decoder.picture(damaged, take=refuse)


async def test_work_is_done_in_threads_of_its_own(decoder: PictureDecoder) -> None:
    names = await asyncio.gather(*(decoder.run(lambda: threading.current_thread().name, "image") for _ in range(5)))
    assert {name.partition("_")[0] for name in names} == {"decode"}


async def test_no_more_than_the_threads_run_at_once() -> None:
    decoder = PictureDecoder(30)
    running, most, lock, full = 0, 0, threading.Lock(), threading.Barrier(2)

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        full.wait()
        with lock:
            running -= 1

    two = PictureDecoder(30, threads=2)
    await asyncio.gather(*(two.run(work, "image") for _ in range(8)))
    assert most == 2
    assert 1 <= decoder.threads <= MAX_THREADS
    decoder.close()
    two.close()


async def test_a_slow_picture_is_given_up_and_keeps_its_thread_until_it_ends() -> None:
    decoder, go_on = PictureDecoder(0.05, threads=1), threading.Event()

    def slow() -> None:
        go_on.wait()
        raise MaskError("mask", "nobody hears of this")

    try:
        with pytest.raises(ApiError, match=r"mask: decoding takes longer than 0\.05 seconds") as caught:
            await decoder.run(slow, "mask")
        assert (caught.value.status, caught.value.param, caught.value.code) == (400, "mask", "decoding_too_slow")
        with pytest.raises(ApiError) as caught:
            await decoder.picture(png(PICTURE))
        assert (caught.value.status, caught.value.code) == (429, "decoders_busy")
    finally:
        go_on.set()
    while True:  # the thread is free in a moment
        with suppress(ApiError):
            assert await decoder.picture(png(PICTURE)) == PIXELS
            break
    decoder.close()


async def test_a_caller_that_leaves_keeps_its_thread_until_it_ends() -> None:
    decoder, started, go_on = PictureDecoder(0.5, threads=1), threading.Event(), threading.Event()

    def slow() -> None:
        started.set()
        go_on.wait()

    caller = asyncio.create_task(decoder.run(slow, "image"))
    await asyncio.to_thread(started.wait)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    try:
        with pytest.raises(ApiError) as caught:
            await decoder.picture(png(PICTURE))
        assert caught.value.code == "decoders_busy"
    finally:
        go_on.set()
    decoder.close()
