"""Work that is told from an order alone, against what the replica finds when it prepares it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instgenie.balancer.order_demand import order_demand
from instgenie.canvas import canvas_mask
from instgenie.checkpoint import Checkpoint
from instgenie.edit_cost import EditWork
from instgenie.mask import Mask, bounding_box
from instgenie.order_work import order_work, predicted_work
from instgenie.orders import CachePolicy, EditOrder, ModelCard, Pixels
from instgenie.replica.order_request import to_request
from instgenie.token_index import token_index
from instgenie.window import choose_window
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
)


def an_order(mask: Mask, /, **settings: Any) -> EditOrder:
    """An edit of a black picture of the mask's size."""
    height, width = mask.shape
    values: dict[str, Any] = {
        "id": "edit",
        "picture": Pixels(width, height, "RGB", bytes(3 * width * height)),
        "mask": mask.tobytes(),
        "prompt": "a red apple",
        "seed": 0,
    }
    return EditOrder(**(values | settings))


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    """A few boxes, of which some are points and lines, in pictures up to four canvases wide."""
    height, width = draw(st.integers(16, 260)), draw(st.integers(16, 260))
    mask = np.zeros((height, width), np.bool_)
    for _ in range(draw(st.integers(1, 4))):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        mask[top : top + draw(st.integers(1, 60)), left : left + draw(st.integers(1, 60))] = True
    return mask


@given(masks(), st.booleans(), st.integers(0, 12), st.sampled_from([(64, 8), (64, 16), (96, 4), (64, 64)]))
def test_tokens_are_those_of_the_token_index(mask: Mask, crop: bool, halo: int, model: tuple[int, int]) -> None:
    canvas_pixels, patch = model
    height, width = mask.shape
    box = bounding_box(mask) if crop else (0, 0, width, height)
    window = choose_window(width, height, box, patch, (canvas_pixels // patch) ** 2)
    index = token_index(torch.from_numpy(canvas_mask(mask, window).copy()), patch, halo)
    card = replace(CARD, canvas_pixels=canvas_pixels, patch=patch)
    work = order_work(an_order(mask, crop=crop, halo=halo), card)
    assert (work.window, work.active_tokens, work.total_tokens) == (window, index.num_active, index.num_tokens)
    assert work.is_dense == (index.num_active == index.num_tokens)


@pytest.mark.parametrize("kind", ["builtin_kind", "flux_fill_kind"])
@pytest.mark.parametrize("guidance", [None, 0.0, 1.0, 2.5])
@pytest.mark.parametrize("prompt", ["a red apple", ""])
def test_steps_and_passes_are_those_of_the_prepared_edit(
    kind: str, guidance: float | None, prompt: str, request: pytest.FixtureRequest
) -> None:
    checkpoint: Checkpoint = request.getfixturevalue(kind)
    settings = checkpoint.settings
    card = replace(
        CARD,
        steps=settings.steps,
        guidance=settings.guidance,
        distilled=checkpoint.distilled,
        canvas_pixels=round(checkpoint.codec.patch * settings.canvas_tokens**0.5),
        patch=checkpoint.codec.patch,
    )
    mask = np.zeros((80, 150), np.bool_)
    mask[30:50, 20:31] = True
    editor = an_editor(checkpoint)
    for steps, strength in ((None, 1.0), (10, 0.7), (10, 0.31), (3, 0.01), (1, 1.0)):
        order = an_order(mask, steps=steps, strength=strength, guidance=guidance, prompt=prompt)
        work, prepared = order_work(order, card), editor.prepare(to_request(order))
        assert (work.steps, work.passes) == (prepared.steps, prepared.passes)
        assert (work.active_tokens, work.total_tokens) == (prepared.index.num_active, prepared.index.num_tokens)
    editor.close()


@pytest.mark.parametrize(
    ("steps", "refreshes", "mean"), [(8, 0, 8), (8, 2, 22), (7, 1, 16), (4, 9, 64), (20, None, 11)]
)
def test_refreshes_are_priced_as_dense_steps(steps: int, refreshes: int | None, mean: int) -> None:
    order = an_order(np.eye(64, dtype=np.bool_), halo=0, steps=steps, refreshes=refreshes)
    assert order_work(order, CARD).mean_tokens == mean
    assert predicted_work(order, CARD) == EditWork(forwards=2 * steps, tokens=2 * steps * mean)
    assert order_demand(order, CARD).active_tokens == mean


@pytest.mark.parametrize(("steps", "refreshes", "step_cache"), [(20, None, 2), (20, 3, 4), (7, 0, 3), (2, 0, 10)])
@pytest.mark.parametrize("cache", ["auto", "off"])
def test_steps_that_are_extrapolated_are_not_priced(
    steps: int, refreshes: int | None, step_cache: int, cache: CachePolicy, builtin_kind: Checkpoint
) -> None:
    mask = np.eye(64, dtype=np.bool_)
    order = an_order(mask, halo=0, steps=steps, refreshes=refreshes, step_cache=step_cache, cache=cache)
    editor = an_editor(builtin_kind)
    prepared = editor.prepare(to_request(order))
    editor.close()
    computed = steps - len(prepared.extrapolated_steps)
    work, demand = order_work(order, CARD), order_demand(order, CARD)
    assert work.steps == demand.steps == computed
    assert demand.computed(steps) == computed
    dense_steps = computed if cache == "off" else len(prepared.refresh_steps)
    tokens = dense_steps * 64 + (computed - dense_steps) * 8
    assert computed * (work.mean_tokens - 1) < tokens <= computed * work.mean_tokens  # rounded up
    assert predicted_work(order, CARD).forwards == 2 * computed


def test_dense_orders_compute_all_tokens() -> None:
    mask = np.eye(64, dtype=np.bool_)
    warm, dense = (order_work(an_order(mask, cache=cache, halo=0), CARD) for cache in ("auto", "off"))
    assert (warm.active_tokens, warm.is_dense) == (8, False)
    assert (dense.active_tokens, dense.is_dense) == (64, True)
    assert predicted_work(an_order(mask, cache="off"), CARD) == EditWork(forwards=8, tokens=8 * 64)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mask": bytes(64 * 64)},
        {"mask": b""},
        {"mask": b"\x01" * 7},
        {"picture": Pixels(0, 0, "RGB", b""), "mask": b""},
        {"halo": -1},
        {"halo": 10**9},
        {"steps": 0},
        {"steps": -3},
        {"strength": 0.0},
        {"strength": float("nan")},
    ],
)
def test_orders_that_will_be_refused_have_some_work(wrong: dict[str, Any]) -> None:
    work = order_work(an_order(np.eye(64, dtype=np.bool_), **wrong), CARD)
    assert work.steps >= 1
    assert 0 <= work.active_tokens <= work.total_tokens
    assert ("mask" in wrong) == (work.active_tokens == 0)


def test_front_ends_need_no_torch() -> None:
    """Nor does the balancer, nor what is behind an address."""
    names = ("instgenie.balancer.order_demand", "instgenie.balancer.policies", "instgenie.replica.remote_replica")
    imports = "; ".join(f"import {name}" for name in names)
    subprocess.run([sys.executable, "-c", f"import sys; {imports}; assert 'torch' not in sys.modules"], check=True)
