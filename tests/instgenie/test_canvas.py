"""Between upload and canvas: no masked pixel is lost, and no other pixel is touched."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from instgenie.canvas import Weights, canvas_mask, canvas_pixels, feathered, paste_back, to_picture, to_tensor
from instgenie.mask import Mask, bounding_box
from instgenie.window import Window, choose_window


def random_pixels(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture in which every pixel is random, its alpha too."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, len(mode)), np.uint8)
    return Image.fromarray(pixels)


def array(picture: Image.Image) -> npt.NDArray[np.uint8]:
    """[H, W, C]."""
    return np.asarray(picture)


@st.composite
def sparse_masks(draw: st.DrawFn, max_side: int = 70) -> Mask:
    """A mask of any size with a few rectangles in it."""
    width, height = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    mask = np.zeros((height, width), bool)
    for _ in range(draw(st.integers(1, 3))):
        left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        mask[top : top + draw(st.integers(1, 30)), left : left + draw(st.integers(1, 30))] = True
    return mask


CANVASES = st.tuples(*[st.sampled_from([16, 24, 40, 64])] * 2)


def touched(start: int, length: int, canvas: int) -> tuple[int, int]:
    """First and last + 1 of the `canvas` equal parts of a `length` that pixel `start` overlaps."""
    return start * canvas // length, -(-(start + 1) * canvas // length)


@settings(deadline=None, max_examples=100)
@given(sparse_masks(), CANVASES)
def test_every_canvas_pixel_that_a_masked_pixel_touches_is_masked(mask: Mask, canvas: tuple[int, int]) -> None:
    height, width = mask.shape
    expected = np.zeros(canvas[::-1], bool)
    for y, x in np.argwhere(mask).tolist():
        top, bottom = touched(y, height, canvas[1])
        left, right = touched(x, width, canvas[0])
        expected[top:bottom, left:right] = True
    assert np.array_equal(canvas_mask(mask, Window(0, 0, width, height, *canvas)), expected)


@pytest.mark.parametrize(
    ("size", "canvas", "pixel"), [((52, 8), (24, 32), (19, 2)), ((8, 44), (24, 24), (2, 38))], ids=["column", "row"]
)
def test_single_pixel_on_the_edge_between_canvas_pixels_is_kept(
    size: tuple[int, int], canvas: tuple[int, int], pixel: tuple[int, int]
) -> None:
    mask = np.zeros(size[::-1], bool)
    mask[pixel[::-1]] = True
    assert canvas_mask(mask, Window(0, 0, *size, *canvas)).any()


def test_mask_of_an_unscaled_window_is_cut_out() -> None:
    mask = np.random.default_rng(0).random((50, 70)) > 0.5
    assert np.array_equal(canvas_mask(mask, Window(3, 5, 24, 16, 24, 16)), mask[5:21, 3:27])


def test_pixels_of_an_unscaled_window_are_cut_out() -> None:
    picture = random_pixels(70, 50)
    canvas = canvas_pixels(picture, Window(3, 5, 24, 16, 24, 16))
    assert np.array_equal(array(canvas), array(picture)[5:21, 3:27])


def test_scaled_window_has_the_canvas_size() -> None:
    assert canvas_pixels(random_pixels(70, 50), Window(0, 0, 70, 50, 24, 16)).size == (24, 16)


def test_transparency_shows_white() -> None:
    picture = Image.new("RGBA", (16, 16), (10, 20, 30, 0))
    picture.putpixel((1, 2), (10, 20, 30, 255))
    canvas = canvas_pixels(picture, Window(0, 0, 16, 16, 16, 16))
    assert canvas.mode == "RGB"
    assert canvas.getpixel((0, 0)) == (255, 255, 255)
    assert canvas.getpixel((1, 2)) == (10, 20, 30)


def test_tensors_keep_every_value() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = Image.fromarray(np.stack([values, values.T, 255 - values], axis=-1))
    tensor = to_tensor(picture)
    assert (tensor.shape, tensor.dtype) == ((1, 3, 16, 16), torch.float32)
    assert (float(tensor.min()), float(tensor.max())) == (-1, 1)
    assert float(tensor[0, 1, 3, 2]) == pytest.approx((2 * 16 + 3) / 127.5 - 1)
    assert np.array_equal(array(to_picture(tensor)), array(picture))


def test_values_beyond_the_range_are_clipped() -> None:
    pixels = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).repeat(3, 1)[None, :, None]
    assert array(to_picture(pixels))[0, :, 0].tolist() == [0, 0, 128, 255, 255]


@settings(deadline=None, max_examples=50)
@given(sparse_masks(), st.sampled_from(["RGB", "RGBA"]), st.integers(0, 4), st.booleans(), st.data())
def test_pixels_outside_the_mask_stay(mask: Mask, mode: str, feather: int, scaled: bool, data: st.DataObject) -> None:
    height, width = mask.shape
    left, top, right, bottom = bounding_box(mask)
    left, top = data.draw(st.integers(0, left)), data.draw(st.integers(0, top))
    right, bottom = data.draw(st.integers(right, width)), data.draw(st.integers(bottom, height))
    size = (right - left, bottom - top)
    window = Window(left, top, *size, *((16, 24) if scaled else size))
    picture = random_pixels(width, height, mode)
    before = picture.tobytes()
    edited = random_pixels(window.canvas_width, window.canvas_height, seed=1)
    result = paste_back(picture, edited, mask, window, feather)
    assert (result.mode, result.size) == (mode, picture.size)
    assert picture.tobytes() == before
    assert np.array_equal(array(result)[~mask], array(picture)[~mask])


@settings(deadline=None, max_examples=25)
@given(sparse_masks(), st.sampled_from(["RGB", "RGBA"]))
def test_pixels_inside_the_mask_are_the_edits(mask: Mask, mode: str) -> None:
    height, width = mask.shape
    edited = random_pixels(width, height, seed=1)
    result = paste_back(random_pixels(width, height, mode), edited, mask, Window(0, 0, width, height, width, height))
    assert np.array_equal(array(result)[mask][:, :3], array(edited)[mask])
    if mode == "RGBA":
        assert (array(result)[mask][:, 3] == 255).all()


@settings(deadline=None, max_examples=25)
@given(sparse_masks(max_side=20), st.integers(0, 4))
def test_feather_rises_from_the_border_inwards(mask: Mask, feather: int) -> None:
    """Black to white: the weight of the edit is what comes out. Distance is counted in king's moves."""
    height, width = mask.shape
    window = Window(0, 0, width, height, width, height)
    black, white = (Image.new("RGB", (width, height), colour) for colour in ("black", "white"))
    weights = array(paste_back(black, white, mask, window, feather))[..., 0]
    outside = np.argwhere(~mask)
    for y, x in np.argwhere(mask).tolist():
        distance = int(np.abs(outside - (y, x)).max(1).min()) if len(outside) else feather + 1
        assert weights[y, x] == round(255 * min(distance, feather + 1) / (feather + 1))


def eroded_weights(mask: Mask, feather: int) -> Weights:
    """The weights by their definition: the mask is made narrower by a pixel `feather` times, and the layers add up."""
    layer = Image.fromarray(mask.astype(np.uint8))
    total = mask.astype(np.float32)
    for _ in range(feather):
        layer = layer.filter(ImageFilter.MinFilter(3))
        total += np.asarray(layer)
    return total / np.float32(feather + 1)


@settings(deadline=None, max_examples=200)
@given(sparse_masks(), st.integers(0, 80), st.floats(0, 0.2), st.integers(0, 2**32 - 1))
def test_weights_are_those_of_their_definition(mask: Mask, feather: int, holes: float, seed: int) -> None:
    mask &= np.random.default_rng(seed).random(mask.shape) >= holes
    assume(mask.any())
    left, top, right, bottom = bounding_box(mask)
    expected = eroded_weights(mask, feather)
    assert np.array_equal(feathered(mask, feather), expected[top:bottom, left:right])
    assert not np.delete(expected, np.s_[top:bottom], 0).any()
    assert not np.delete(expected, np.s_[left:right], 1).any()


def test_wide_feather_of_a_whole_picture_and_of_a_large_mask() -> None:
    mask = np.zeros((150, 700), bool)
    mask[:, 20:] = True
    for edited in (mask, np.ones_like(mask)):
        left, top, right, bottom = bounding_box(edited)
        assert np.array_equal(feathered(edited, 256), eroded_weights(edited, 256)[top:bottom, left:right])


@settings(deadline=None, max_examples=25)
@given(sparse_masks(max_side=150), st.integers(0, 6))
def test_alpha_is_blended_premultiplied(mask: Mask, feather: int) -> None:
    height, width = mask.shape
    picture, edited = random_pixels(width, height, "RGBA"), random_pixels(width, height, seed=1)
    result = array(paste_back(picture, edited, mask, Window(0, 0, width, height, width, height), feather))
    weight = eroded_weights(mask, feather)[..., None].astype(np.float64)
    old, new = array(picture).astype(np.float64), array(edited).astype(np.float64)
    alpha = (1 - weight) * old[..., 3:] + weight * 255
    colour = ((1 - weight) * old[..., 3:] * old[..., :3] + weight * 255 * new) / np.maximum(alpha, 1e-9)
    assert np.abs(result[mask][:, 3:] - alpha[mask]).max() <= 0.501
    assert np.abs(result[mask][:, :3] - colour[mask]).max() <= 0.501
    whole = weight[..., 0] == 1
    assert np.array_equal(result[whole][:, :3], array(edited)[whole])
    assert (result[whole][:, 3] == 255).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("feather", [0, 9])
@pytest.mark.parametrize("size", [(201, 333), (64, 64), (17, 130)])
def test_odd_sizes_through_window_and_canvas(size: tuple[int, int], feather: int, mode: str) -> None:
    picture = random_pixels(*size, mode)
    mask = np.zeros(size[::-1], bool)
    mask[9:30, 2:15] = True
    window = choose_window(*size, bounding_box(mask), 8, 64)
    edited = random_pixels(window.canvas_width, window.canvas_height, seed=1)
    result = paste_back(picture, edited, mask, window, feather)
    assert result.size == size
    assert np.array_equal(array(result)[~mask], array(picture)[~mask])
    assert (array(result)[mask] != array(picture)[mask]).any()


@pytest.mark.parametrize("feather", [0, 5])
def test_transparent_pixels_have_no_colour_at_the_seam(feather: int) -> None:
    """A black but transparent upload round a white edit: no dark fringe, whatever it is laid over."""
    picture = Image.new("RGBA", (30, 30), (0, 0, 0, 0))
    mask = np.zeros((30, 30), bool)
    mask[5:25, 5:25] = True
    result = array(
        paste_back(picture, Image.new("RGB", (30, 30), "white"), mask, Window(0, 0, 30, 30, 30, 30), feather)
    )
    visible = result[result[..., 3] > 0]
    assert (visible[:, :3] == 255).all()
    ramp = result[15, 5 : 6 + feather, 3].tolist()
    assert ramp == [round(255 * (i + 1) / (feather + 1)) for i in range(feather + 1)]


def test_opaque_upload_with_alpha_blends_as_without() -> None:
    picture, edited = random_pixels(40, 40), random_pixels(40, 40, seed=1)
    mask = np.zeros((40, 40), bool)
    mask[8:30, 4:35] = True
    window = Window(0, 0, 40, 40, 40, 40)
    plain = array(paste_back(picture, edited, mask, window, 6))
    opaque = array(paste_back(picture.convert("RGBA"), edited, mask, window, 6))
    assert np.abs(opaque[..., :3].astype(int) - plain).max() <= 1  # rounding
    assert (opaque[..., 3] == 255).all()


def test_colour_profile_stays_and_nothing_else() -> None:
    picture = random_pixels(20, 20)
    picture.info = {"icc_profile": b"profile", "exif": b"turned", "dpi": (72, 72)}
    mask = np.ones((20, 20), bool)
    result = paste_back(picture, random_pixels(20, 20, seed=1), mask, Window(0, 0, 20, 20, 20, 20))
    assert result.info == {"icc_profile": b"profile"}
