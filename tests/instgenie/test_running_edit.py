"""An edit step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from instgenie.checkpoint import Checkpoint
from instgenie_cache import StoreFullError, TemplateSize
from tests.instgenie.edits import TappedStore, a_request, an_editor, pixels

TEMPLATE_BYTES = 4 * 2 * 2 * 64 * 2 * 16 * 4


@pytest.mark.parametrize("kind", ["builtin_kind", "flux_fill_kind"])
@pytest.mark.parametrize("cached", [True, False])
def test_steps_one_by_one_are_the_edit(kind: str, cached: bool, request: pytest.FixtureRequest) -> None:
    editor = an_editor(request.getfixturevalue(kind))
    order = a_request(cached=cached, steps=3)
    expected = editor.edit(order)
    with editor.start(order) as running:
        assert (running.step, running.steps, running.done) == (0, 3, False)
        for step in range(3):
            assert running.step == step
            running.advance()
        assert running.done
        result = running.finish()
    assert np.array_equal(pixels(result.picture), pixels(expected.picture))
    assert len(result.timings.step_ms) == 3
    assert result.timings.denoise_ms == pytest.approx(sum(result.timings.step_ms))


def test_edits_take_turns(builtin_kind: Checkpoint) -> None:
    """Edits that run at the same time, each at its own step, are the same as one after the other."""
    editor = an_editor(builtin_kind)
    orders = [a_request(seed=1), a_request(seed=2, prompt="a pear"), a_request(steps=2, cached=False)]
    expected = [editor.edit(order) for order in orders]
    running = [editor.start(order) for order in orders]
    while not all(edit.done for edit in running):
        for edit in running:
            if not edit.done:
                edit.advance()
    for edit, alone in zip(running, expected, strict=True):
        assert np.array_equal(pixels(edit.finish().picture), pixels(alone.picture))


def test_preview_starts_as_the_picture_and_ends_as_the_result(builtin_kind: Checkpoint) -> None:
    editor, order = an_editor(builtin_kind), a_request()
    with editor.start(order) as running:
        previews = [running.preview()]
        while not running.done:
            running.advance()
            previews.append(running.preview())
        result = running.finish()
    for preview in previews:
        assert preview.size == order.picture.size
        assert np.array_equal(pixels(preview)[~order.mask], pixels(order.picture)[~order.mask])
    distances = [float(np.abs(pixels(p).astype(int) - pixels(result.picture)).mean()) for p in previews]
    assert distances[-1] == 0  # the last velocity was the end
    assert distances[0] > 0
    assert len({p.tobytes() for p in previews}) == len(previews)


def test_template_is_held_until_the_edit_is_closed(builtin_kind: Checkpoint) -> None:
    store = TappedStore(TEMPLATE_BYTES)
    running = an_editor(builtin_kind, store).start(a_request())
    with pytest.raises(StoreFullError):
        store.create("other", TemplateSize(1, 1, TEMPLATE_BYTES))
    running.close()
    running.close()
    store.create("other", TemplateSize(1, 1, TEMPLATE_BYTES)).abort()


def test_what_serves_an_edit_says_how_its_timings_end(builtin_kind: Checkpoint) -> None:
    """Before its first step it is refused what it asks for, after that it was served in part; a dense one asks not."""
    editor = an_editor(builtin_kind)
    editor.edit(a_request())
    running = editor.encode(editor.prepare(a_request()))
    assert running.timings.tokens_active == running.timings.tokens_total == 64
    running.serve_from(editor.shelf.read(running))
    assert running.timings.tokens_active == 6
    running.serve_from(None)
    assert (running.timings.cache, running.timings.tokens_active) == ("refused", 64)
    running.serve_from(editor.shelf.read(running))
    running.advance()
    running.serve_from(None)
    running.advance()
    assert (running.timings.cache, running.timings.dense_steps, running.timings.tokens_active) == ("partial", 1, 6)
    dense = editor.encode(editor.prepare(a_request(cached=False)))
    dense.serve_from(None)
    dense.advance()
    assert (dense.timings.cache, dense.timings.dense_steps) == ("off", 1)


def test_edit_gives_its_template_back_when_something_else_serves_it(builtin_kind: Checkpoint) -> None:
    store = TappedStore(TEMPLATE_BYTES)
    running = an_editor(builtin_kind, store).start(a_request())
    running.serve_from(None)
    store.create("other", TemplateSize(1, 1, TEMPLATE_BYTES)).abort()
    assert not running.done


def test_number_of_passes(builtin_kind: Checkpoint, flux_fill_kind: Checkpoint) -> None:
    """Two for classifier-free guidance, where it is not without effect; told before the edit is encoded."""
    wanted: list[tuple[dict[str, Any], int]] = [
        ({}, 2),
        ({"guidance": 1.0}, 1),
        ({"guidance": 0.0}, 1),
        ({"prompt": ""}, 1),
    ]
    for settings, passes in wanted:
        for checkpoint, expected in ((builtin_kind, passes), (flux_fill_kind, 1)):
            editor = an_editor(checkpoint)
            prepared = editor.prepare(a_request(**settings))
            assert (prepared.passes, editor.encode(prepared).passes) == (expected, expected)
