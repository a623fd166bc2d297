"""Templates recorded ahead of their edits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from instgenie.checkpoint import Checkpoint
from instgenie.errors import InvalidInputError
from instgenie.mask import Mask
from instgenie.warm_request import WarmRequest
from instgenie_cache import MemoryStore
from tests.instgenie.edits import PLENTY_BYTES, a_request, an_editor, random_picture, watched

LARGE = random_picture(201, 333)  # several windows of the tiny model, whose canvas is 64x64


def box_mask(picture: Image.Image, box: tuple[int, int, int, int]) -> Mask:
    """The box as a mask."""
    mask = np.zeros((picture.height, picture.width), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def test_edit_of_a_warm_template_hits(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind)
    (warmed,) = editor.warm(WarmRequest(picture=random_picture()))
    assert (warmed.number, warmed.windows, warmed.outcome) == (1, 1, "cold")
    assert warmed.num_bytes == editor.store.stats().used_bytes
    assert editor.edit(a_request()).timings.cache == "hit"
    assert [again.outcome for again in editor.warm(WarmRequest(picture=random_picture()))] == ["hit"]


@pytest.mark.parametrize("settings", [{"steps": 3}, {"template_seed": 4}, {"template_prompt": "a meadow"}])
def test_settings_are_those_of_the_edit(builtin_kind: Checkpoint, settings: dict[str, Any]) -> None:
    editor = an_editor(builtin_kind)
    list(editor.warm(WarmRequest(picture=random_picture(), **settings)))
    assert editor.edit(a_request()).timings.cache == "cold"
    assert editor.edit(a_request(**settings)).timings.cache == "hit"


def test_boxes_warm_the_windows_of_their_edits(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind)
    boxes = ((10, 12, 30, 40), (11, 12, 30, 40), (120, 200, 150, 220), (0, 0, 201, 333))
    warmed = list(editor.warm(WarmRequest(picture=LARGE, boxes=boxes)))
    assert [w.number for w in warmed] == [1, 2, 3]  # the first two boxes share a window
    assert {w.windows for w in warmed} == {3}
    masks = [box_mask(LARGE, box) for box in boxes[:3]]
    masks.append(box_mask(LARGE, (0, 0, 5, 5)) | box_mask(LARGE, (196, 328, 201, 333)))
    for mask in masks:
        assert editor.edit(a_request(LARGE, mask=mask)).timings.cache == "hit"
    assert editor.edit(a_request(LARGE, mask=box_mask(LARGE, (120, 10, 140, 30)))).timings.cache == "cold"


def test_all_windows_serve_every_edit(builtin_kind: Checkpoint) -> None:
    picture = random_picture(97, 71)
    editor = an_editor(builtin_kind)
    warmed = list(editor.warm(WarmRequest(picture=picture, steps=1)))
    assert warmed[0].window.box == (0, 0, 97, 71)
    for left in range(0, 88, 11):
        for top in range(0, 62, 11):
            mask = box_mask(picture, (left, top, left + 9, top + 9))
            assert editor.edit(a_request(picture, mask=mask, steps=1)).timings.cache == "hit"


def test_windows_can_be_limited(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind)
    warmed = list(editor.warm(WarmRequest(picture=LARGE, max_windows=3, steps=1)))
    assert [w.number for w in warmed] == [1, 2, 3]
    areas = [w.window.width * w.window.height for w in warmed]
    assert areas == sorted(areas, reverse=True)


def test_store_without_room(builtin_kind: Checkpoint) -> None:
    checkpoint, forward = watched(builtin_kind)
    (warmed,) = an_editor(checkpoint, MemoryStore(1000)).warm(WarmRequest(picture=random_picture()))
    assert warmed.outcome == "refused"
    assert not forward.calls


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"boxes": ((0, 0, 65, 10),)}, "boxes: (0, 0, 65, 10) is not a box in a picture of 64x64 pixels"),
        ({"boxes": ((5, 5, 5, 9),)}, "boxes: (5, 5, 5, 9) is not a box"),
        ({"max_windows": 0}, "max_windows: 0 is not in 1..10000"),
        ({"steps": 0}, "steps: 0 is not in 1..1000"),
        ({"guidance": -1.0}, "guidance: -1.0 is not in 0..100"),
        ({"picture": Image.new("L", (64, 64))}, "picture: mode 'L'"),
    ],
)
def test_bad_requests(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        WarmRequest(**({"picture": random_picture()} | settings))
    assert str(caught.value).startswith(message)


def test_store_keeps_what_was_warmed(builtin_kind: Checkpoint) -> None:
    store = MemoryStore(PLENTY_BYTES)
    (warmed,) = an_editor(builtin_kind, store).warm(WarmRequest(picture=random_picture()))
    assert store.holds(warmed.key)
