"""Step caches: which steps are computed, where the others go, and that an edit is the same however it is served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from instgenie.batch_step import run_step
from instgenie.checkpoint import Checkpoint
from instgenie.edit_state import EditState
from instgenie.edit_step import EditStep
from instgenie.errors import ParameterError
from instgenie.step_cache import FIRST_STEPS, MAX_STEP_CACHE, extrapolated_steps, next_computed
from tests.instgenie.batches import HookedForward, Rider
from tests.instgenie.edits import TappedStore, a_request, an_editor, pixels
from tests.instgenie.tiny_flux import relative_error

RIDER = Rider(steps=10, guidance=3.0, prompt="a pear", step_cache=3)


@pytest.mark.parametrize(
    ("step_cache", "steps", "expected"),
    [
        (1, 20, []),
        (2, 10, [3, 5, 7, 9]),
        (3, 10, [3, 4, 6, 7, 9]),
        (10, 10, [3, 4, 5, 6, 7, 8, 9]),
        (2, 3, []),
        (5, 1, []),
    ],
)
def test_known_steps(step_cache: int, steps: int, expected: list[int]) -> None:
    assert sorted(extrapolated_steps(step_cache, steps)) == expected


@given(step_cache=st.integers(1, MAX_STEP_CACHE), steps=st.integers(1, 60), refreshes=st.frozensets(st.integers(0, 59)))
def test_what_is_always_computed(step_cache: int, steps: int, refreshes: frozenset[int]) -> None:
    extrapolated = extrapolated_steps(step_cache, steps, refreshes)
    assert not extrapolated & (refreshes | set(range(FIRST_STEPS)))
    assert extrapolated <= set(range(steps))
    step = 0
    while step < steps:
        following = next_computed(step + 1, extrapolated)
        assert following - step <= step_cache  # no more than that many steps from one to the next
        step = following


@pytest.mark.parametrize("step_cache", [0, 11, 2.5, True])
def test_limits(step_cache: int) -> None:
    with pytest.raises(ParameterError, match=f"step_cache: {step_cache}"):
        a_request(step_cache=step_cache)


def test_velocities_between_lie_on_the_line_through_the_last_two(builtin_kind: Checkpoint) -> None:
    """Against the steps that an edit would take by hand, from the velocities that were computed."""
    editor = an_editor(builtin_kind)
    with editor.start(RIDER.request) as edit:
        state, computed, seen = edit.state, dict[int, Tensor](), dict[int, Tensor]()
        positions = state.index.editable_positions
        latents = state.latents[positions]
        while not edit.done:
            step = edit.step
            edit.advance()
            computed[step] = edit.state.known[-1].velocity
            seen[edit.step] = edit.state.latents[positions]
    assert sorted(computed) == [0, 1, 2, 5, 8]
    assert (edit.timings.extrapolated_steps, len(edit.timings.step_ms)) == (5, 5)
    for step in range(10):
        if step not in computed:
            *_, before, last = (known for known in sorted(computed) if known < step)
            slope = (computed[last] - computed[before]) / (last - before)
            velocity = computed[last] + slope * (step - last)
        else:
            velocity = computed[step]
        latents = latents + (state.sigmas[step + 1] - state.sigmas[step]) * velocity
        if step + 1 in seen:
            assert relative_error(seen[step + 1], latents) <= 1e-5


@pytest.mark.parametrize("service", ["dense", "records", "lane"])
def test_as_many_passes_as_steps_that_are_computed(builtin_kind: Checkpoint, service: str) -> None:
    forward = HookedForward(builtin_kind.forward)
    editor = an_editor(replace(builtin_kind, forward=forward))
    request = replace(RIDER.request, cached=service != "dense")
    if service == "records":
        editor.shelf.record(editor.encode(editor.prepare(request)).template)
    forward.calls.clear()
    timings = editor.edit(request).timings
    lane = 10 if timings.cache == "cold" else 0
    assert len(forward.calls) == 5 + lane
    assert timings.extrapolated_steps == 5


def test_records_of_other_steps_are_not_read(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind, store := TappedStore())
    editor.edit(RIDER.request)
    store.reads.clear()
    with editor.start(RIDER.request) as edit:
        assert edit.record_steps == [0, 1, 2, 5, 8]
        while not edit.done:
            edit.advance()
    assert sorted(set(store.reads)) == [0, 1, 2, 5, 8]


def errors(checkpoint: Checkpoint, step_caches: Sequence[int], steps: int) -> list[float]:
    """Of the latents, to those of the edit that computes every step."""
    editor = an_editor(checkpoint)
    latents = []
    for step_cache in (1, *step_caches):
        with editor.start(replace(RIDER, step_cache=step_cache, steps=steps).request) as edit:
            while not edit.done:
                edit.advance()
            latents.append(edit.state.latents)
    return [relative_error(ours, latents[0]) for ours in latents[1:]]


def test_the_more_steps_are_computed_the_closer_it_is(builtin_kind: Checkpoint) -> None:
    two, five = errors(builtin_kind, [2, 5], 30)
    assert 0 < two < five


def test_after_a_refresh_its_velocity_holds_until_another_one_is_computed(builtin_kind: Checkpoint) -> None:
    """What was before it has nothing to do with it: it has corrected that."""
    editor = an_editor(builtin_kind)
    with editor.start(replace(RIDER, refreshes=2, steps=12).request) as edit:  # at 0 and 4
        known: dict[int, list[int]] = {}
        while not edit.done:
            step = edit.step
            edit.advance()
            known[step] = [one.step for one in edit.state.known]
        assert known == {0: [0], 1: [0, 1], 2: [1, 2], 4: [4], 5: [4, 5], 8: [5, 8], 11: [8, 11]}


def test_so_does_the_velocity_of_a_refresh_after_which_nothing_is_computed(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind)
    with editor.start(replace(RIDER, refreshes=2, steps=12, step_cache=10).request) as edit:  # at 0 and 4
        while not edit.done:
            edit.advance()
        assert [one.step for one in edit.state.known] == [4]
        assert (edit.timings.refreshes, edit.timings.extrapolated_steps) == (2, 8)


def test_refreshes_are_computed_and_correct_the_steps_after_them(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind)
    timings = editor.edit(replace(RIDER, refreshes=3, steps=12).request).timings  # at 0, 2 and 6
    assert (timings.refreshes, timings.dense_steps) == (3, 3)
    assert timings.extrapolated_steps == len(extrapolated_steps(3, 12, [0, 2, 6]))


def test_pixels_outside_the_mask_are_as_ever(builtin_kind: Checkpoint) -> None:
    request = a_request(step_cache=4, steps=8)
    edited = pixels(an_editor(builtin_kind).edit(request).picture)
    assert (edited[~request.mask] == pixels(request.picture)[~request.mask]).all()
    assert (edited[request.mask] != pixels(request.picture)[request.mask]).any()


def test_a_step_that_fails_is_taken_again_with_all_that_follow_it(builtin_kind: Checkpoint) -> None:
    forward = HookedForward(builtin_kind.forward)
    editor = an_editor(replace(builtin_kind, forward=forward))
    with editor.start(RIDER.request) as edit:
        for _ in range(2):
            edit.advance()
        before = edit.state.latents

        def fail(_: int) -> None:
            raise RuntimeError("a fault")

        forward.on_block = fail
        with pytest.raises(RuntimeError, match="a fault"):
            run_step(forward, [edit])
        assert (edit.step, edit.timings.extrapolated_steps) == (2, 0)
        torch.testing.assert_close(edit.state.latents, before)
        forward.on_block = lambda _: None
        run_step(forward, [edit])
        assert (edit.step, edit.timings.extrapolated_steps) == (5, 2)


def test_leaps_of_a_batch_that_fails_are_not_counted(builtin_kind: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = an_editor(builtin_kind)
    with editor.start(RIDER.request) as first, editor.start(replace(RIDER, seed=1).request) as second:
        for _ in range(2):
            run_step(builtin_kind.forward, [first, second])

        def fail(step: EditStep) -> bool:
            raise RuntimeError(f"out of memory for {step}")

        with monkeypatch.context() as patch:
            patch.setattr(second, "keep_step", fail)
            with pytest.raises(RuntimeError, match="out of memory"):
                run_step(builtin_kind.forward, [first, second])
        assert (first.step, first.timings.extrapolated_steps) == (2, 0)
        while not first.done:
            run_step(builtin_kind.forward, [first, second])
        assert len(first.timings.step_ms) + first.timings.extrapolated_steps == first.step == 10


@pytest.mark.parametrize(("step_cache", "pays"), [(1, True), (10, False)])
def test_recording_pays_against_a_dense_edit_with_the_same_step_cache(
    step_cache: int, pays: bool, builtin_kind: Checkpoint
) -> None:
    """A lane records every step, a dense edit computes as few as one with records."""
    request = replace(RIDER, steps=20, step_cache=step_cache).request
    assert an_editor(builtin_kind).caching_pays(request) is pays


@pytest.mark.parametrize("strength", [0.3, 0.7])
def test_with_strength_records_are_of_the_full_schedule(strength: float, builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind)
    request = replace(RIDER, steps=12, strength=strength).request
    timings = [editor.edit(request).timings for _ in range(2)]
    assert [one.cache for one in timings] == ["cold", "hit"]
    assert {len(one.step_ms) + one.extrapolated_steps for one in timings} == {round(12 * strength + 0.4)}


def test_every_step_is_computed_by_default(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind)
    with editor.start(a_request(steps=8)) as edit:
        states: list[EditState] = []
        while not edit.done:
            edit.advance()
            states.append(edit.state)
    assert edit.timings.extrapolated_steps == 0
    assert len(edit.timings.step_ms) == 8
    assert not edit.state.known  # nothing is kept for what is not asked for


def test_dense_edit_to_compare_with_computes_every_step(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind)
    assert editor.dense(RIDER.request).timings.extrapolated_steps == 0
    assert editor.edit(replace(RIDER.request, cached=False)).timings.extrapolated_steps == 5
