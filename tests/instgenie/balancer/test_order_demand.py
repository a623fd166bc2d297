"""Orders as the balancer sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from instgenie.balancer.order_demand import order_demand, template_name
from instgenie.checkpoint import Checkpoint
from instgenie.editor import Editor
from instgenie.order_work import order_work
from instgenie.orders import EditOrder, ModelCard, Pixels, WarmOrder
from instgenie.replica.order_request import to_request
from tests.instgenie.edits import an_editor

CARD = ModelCard(
    name="test",
    revision="r",
    dtype="float32",
    device="cpu",
    steps=4,
    guidance=3.0,
    distilled=False,
    canvas_pixels=64,
    patch=8,
    text_tokens=7,
    step_bytes=64_000,
)
SIDE = 200  # of a picture with room for windows of 64, 90, 128 and 181 pixels
PIXELS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 4), np.uint8)


def an_order(**settings: Any) -> EditOrder:
    """An edit near the left upper corner of a picture of many windows."""
    values: dict[str, Any] = {
        "id": "edit",
        "picture": pixels(),
        "mask": mask(4),
        "prompt": "a red apple",
        "seed": 0,
        "halo": 0,
    }
    return EditOrder(**(values | settings))


def pixels(changed: tuple[int, int] | None = None, channels: int = 3) -> Pixels:
    """The picture, but for one pixel."""
    data = PIXELS[:, :, :channels].copy()
    if changed is not None:
        data[changed] ^= 0xFF
    return Pixels(SIDE, SIDE, "RGB" if channels == 3 else "RGBA", data.tobytes())


def mask(left: int, side: int = 8, top: int = 4) -> bytes:
    """A square."""
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[top : top + side, left : left + side] = 1
    return pixels.tobytes()


def test_a_demand_says_what_is_computed() -> None:
    demand = order_demand(an_order(), CARD)
    assert (demand.id, demand.cache) == ("edit", "auto")
    # The window has the canvas's size, so the square of 8 pixels at 4 lies in four tokens.
    assert (demand.active_tokens, demand.total_tokens, demand.text_tokens) == (4, 64, 7)
    assert (demand.steps, demand.passes, demand.step_bytes) == (4, 2, 64_000)
    shorter = order_demand(an_order(strength=0.5, guidance=1.0, cache="only"), CARD)
    assert (shorter.steps, shorter.passes, shorter.cache) == (2, 1, "only")


def test_step_bytes_are_those_of_the_canvas_that_the_picture_has() -> None:
    picture, all_of_it = Pixels(64, 40, "RGB", bytes(3 * 64 * 40)), np.zeros((40, 64), np.uint8)
    all_of_it[0, 0] = 1
    demand = order_demand(an_order(picture=picture, mask=all_of_it.tobytes()), CARD)
    assert demand.total_tokens == 10 * 6  # 64 x 40 pixels with the area of a canvas, in whole tokens
    assert demand.step_bytes == 60_000


def test_edits_that_leave_nothing_to_records_are_dense() -> None:
    """As the replica serves them, whatever they ask for."""
    everything = b"\x01" * SIDE**2
    for cache in ("auto", "only", "off"):
        demand = order_demand(an_order(mask=everything, cache=cache), CARD)
        assert (demand.cache, demand.active_tokens) == ("off", demand.total_tokens)
    assert order_demand(an_order(cache="off"), CARD).cache == "off"


SAME: list[dict[str, Any]] = [
    {"seed": 5},
    {"prompt": "a green pear"},
    {"strength": 0.5},
    {"halo": 3},
    {"feather": 2},
    {"mask": mask(6)},
    {"steps": 4},
    {"id": "other", "priority": 3, "previews": 2},
    {"picture": pixels(changed=(150, 150))},  # outside the window
]
OTHER: list[dict[str, Any]] = [
    {"mask": mask(120)},
    {"mask": mask(4, side=60)},
    {"crop": False},
    {"steps": 5},
    {"template_seed": 1},
    {"template_prompt": "a kitchen"},
    {"namespace": "tenant"},
    {"picture": pixels(changed=(20, 20))},
]


@pytest.fixture(params=["builtin_kind", "flux_fill_kind"])
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    """Of both kinds: where guidance is part of the template, and where it is not."""
    found: Checkpoint = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("changes", [*SAME, *OTHER, {"guidance": 1.5}, {"guidance": 3}], ids="-".join)
def test_names_are_equal_where_the_templates_keys_are(changes: dict[str, Any], checkpoint: Checkpoint) -> None:
    card = card_of(checkpoint)
    one, other = an_order(), an_order(**changes)
    names = {order_demand(order, card).template for order in (one, other)}
    editor = an_editor(checkpoint)
    keys = {key_of(order, editor) for order in (one, other)}
    editor.close()
    assert len(names) == len(keys)


def test_names_of_what_is_the_same_and_what_is_not() -> None:
    """Said here, so that the test above does not go by two that are wrong alike."""
    name = order_demand(an_order(), CARD).template
    assert {order_demand(an_order(**changes), CARD).template for changes in SAME} == {name}
    others = {order_demand(an_order(**changes), CARD).template for changes in OTHER}
    assert len(others - {name}) == len(OTHER)
    assert order_demand(an_order(), replace(CARD, revision="s")).template != name


def test_what_was_warmed_has_the_name_that_its_edits_have() -> None:
    edit, warm = an_order(template_prompt="a kitchen"), WarmOrder(id="w", picture=pixels(), template_prompt="a kitchen")
    box = order_work(edit, CARD).window.box
    assert template_name(warm, CARD, box) == order_demand(edit, CARD).template
    assert template_name(warm, CARD, (16, *box[1:])) != order_demand(edit, CARD).template


@pytest.mark.parametrize(
    "wrong",
    [{"picture": Pixels(8, 8, "RGB", b"short")}, {"mask": b""}, {"template_prompt": "\ud800"}, {"steps": 2**70}],
)
def test_orders_that_will_be_refused_have_a_demand(wrong: dict[str, Any]) -> None:
    assert order_demand(an_order(**wrong), CARD).steps >= 1


def card_of(checkpoint: Checkpoint) -> ModelCard:
    settings = checkpoint.settings
    return replace(
        CARD,
        steps=settings.steps,
        guidance=settings.guidance,
        distilled=checkpoint.distilled,
        canvas_pixels=round(checkpoint.codec.patch * settings.canvas_tokens**0.5),
        patch=checkpoint.codec.patch,
    )


def key_of(order: EditOrder, editor: Editor) -> str:
    return editor.prepare(to_request(order)).key
