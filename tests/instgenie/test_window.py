"""Windows: inside the picture, round the edit, and the same for edits in the same place."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from instgenie.window import CONTEXT, Box, Window, all_windows, choose_window


@st.composite
def boxes(draw: st.DrawFn, max_side: int = 900) -> tuple[int, int, Box]:
    """Width and height of a picture, and a box inside it."""
    width, height = draw(st.integers(16, max_side)), draw(st.integers(16, max_side))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    return width, height, (left, top, right, bottom)


MODELS = st.sampled_from([(8, 64), (8, 576), (16, 256), (16, 100)])  # patch, canvas_tokens


@settings(deadline=None, max_examples=200)
@given(boxes(), MODELS)
def test_window_lies_in_the_picture_and_holds_the_edit(picture: tuple[int, int, Box], model: tuple[int, int]) -> None:
    width, height, edited = picture
    window = choose_window(width, height, edited, *model)
    left, top, right, bottom = window.box
    assert 0 <= left <= edited[0]
    assert 0 <= top <= edited[1]
    assert edited[2] <= right <= width
    assert edited[3] <= bottom <= height
    assert choose_window(width, height, edited, *model) == window


@settings(deadline=None, max_examples=200)
@given(boxes(), MODELS)
def test_canvas_is_made_of_tokens_and_keeps_the_shape(picture: tuple[int, int, Box], model: tuple[int, int]) -> None:
    width, height, edited = picture
    assume(max(width, height) <= 8 * min(width, height))
    patch, canvas_tokens = model
    window = choose_window(width, height, edited, patch, canvas_tokens)
    assert window.canvas_width % patch == window.canvas_height % patch == 0
    columns, rows = window.canvas_width // patch, window.canvas_height // patch
    assert 0.7 * canvas_tokens <= columns * rows <= 1.3 * canvas_tokens
    exact = math.sqrt(canvas_tokens * window.width / window.height)
    assert abs(columns - exact) <= 0.5
    assert window.is_scaled == ((window.width, window.height) != (window.canvas_width, window.canvas_height))


@settings(deadline=None, max_examples=200)
@given(boxes(), MODELS)
def test_part_of_a_picture_is_the_smallest_with_context(picture: tuple[int, int, Box], model: tuple[int, int]) -> None:
    width, height, edited = picture
    patch, canvas_tokens = model
    window = choose_window(width, height, edited, patch, canvas_tokens)
    assume((window.width, window.height) != (width, height))
    side = max(edited[2] - edited[0], edited[3] - edited[1])
    native = patch * math.sqrt(canvas_tokens)
    assert window.width == window.height >= CONTEXT * side
    smaller = window.width / math.sqrt(2)
    assert smaller < CONTEXT * side + 1 or smaller < native - 1


@pytest.mark.parametrize(("patch", "canvas_tokens"), [(8, 64), (16, 1024)])
@pytest.mark.parametrize("edited", [(0, 0, 1, 1), (3, 5, 60, 20), (0, 0, 64, 64)])
def test_picture_of_the_native_size_is_not_scaled(patch: int, canvas_tokens: int, edited: Box) -> None:
    side = patch * math.isqrt(canvas_tokens)
    window = choose_window(side, side, edited, patch, canvas_tokens)
    assert window == Window(0, 0, side, side, side, side)
    assert not window.is_scaled


def test_native_number_of_tokens_in_another_shape_is_not_scaled() -> None:
    window = choose_window(128, 32, (0, 0, 8, 8), 8, 64)
    assert (window.box, window.is_scaled) == ((0, 0, 128, 32), False)


def test_small_edit_of_a_large_picture_is_seen_at_full_size() -> None:
    window = choose_window(640, 480, (300, 200, 330, 240), 8, 64)
    assert (window.width, window.height, window.is_scaled) == (64, 64, False)


@pytest.mark.parametrize("edited", [(0, 0, 640, 480), (0, 0, 400, 10), (100, 0, 110, 400)])
def test_large_edit_sees_the_whole_picture(edited: Box) -> None:
    assert choose_window(640, 480, edited, 8, 64).box == (0, 0, 640, 480)


@pytest.mark.parametrize("size", [(20, 16), (64, 90), (30, 200)])
def test_small_picture_is_seen_whole(size: tuple[int, int]) -> None:
    assert choose_window(*size, (0, 0, 4, 4), 8, 64).box == (0, 0, *size)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 500), st.integers(0, 400), st.integers(1, 100), st.integers(1, 100))
def test_small_moves_mostly_keep_the_window(left: int, top: int, width: int, height: int) -> None:
    moves = [(x, y) for x in (-2, 0, 2) for y in (-2, 0, 2)]

    def window(x: int, y: int) -> Window:
        return choose_window(700, 600, (left + x, top + y, left + x + width, top + y + height), 8, 64)

    windows = [window(2 + x, 2 + y) for x, y in moves]
    assert len(set(windows)) <= 4  # at most one grid line is crossed in each direction


def test_edits_all_over_a_picture_share_few_windows() -> None:
    windows = {
        choose_window(640, 480, (left, top, left + 40, top + 30), 8, 64)
        for left in range(0, 600, 3)
        for top in range(0, 450, 3)
    }
    assert len(windows) <= 37 * 27  # a grid of 16 pixels, where 30,000 places were asked for


@settings(deadline=None, max_examples=100)
@given(boxes())
def test_edit_off_the_border_has_context_on_every_side(picture: tuple[int, int, Box]) -> None:
    width, height, edited = picture
    window = choose_window(width, height, edited, 8, 64)
    left, top, right, bottom = window.box
    assert left < edited[0] or left == 0
    assert top < edited[1] or top == 0
    assert right > edited[2] or right == width
    assert bottom > edited[3] or bottom == height


@settings(deadline=None, max_examples=100)
@given(boxes(max_side=400), MODELS)
def test_every_window_is_among_all_windows(picture: tuple[int, int, Box], model: tuple[int, int]) -> None:
    width, height, edited = picture
    windows = all_windows(width, height, *model)
    assert choose_window(width, height, edited, *model) in windows
    assert len(set(windows)) == len(windows)
    areas = [window.width * window.height for window in windows]
    assert areas == sorted(areas, reverse=True)
