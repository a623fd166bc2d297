"""One step of many edits: each is what it would be alone, and what fails is its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from instgenie.batch_step import LaneStep, run_step
from instgenie.checkpoint import Checkpoint, load_checkpoint
from instgenie.codecs import CodecName
from instgenie.edit_state import Guidance
from instgenie.editor import Editor
from instgenie.lane import Lane
from instgenie.models.segment import Segment
from instgenie.records import StepContext
from instgenie.running_edit import RunningEdit
from instgenie_cache import CacheError
from tests.instgenie.batches import BatchDriver, CountedStore, HookedForward, Rider, latents_alone, put_record, riders
from tests.instgenie.edits import an_editor
from tests.instgenie.tiny_flux import relative_error

CPU = torch.device("cpu")
BATCHES = st.lists(riders(), min_size=1, max_size=8)
THREE = [Rider(picture=number, seed=number, prompt=f"apple {number}") for number in range(3)]


def worst_error(
    checkpoint: Checkpoint, batch: Sequence[Rider], codec: CodecName, *, keeps_steps: bool, lane_steps: int
) -> float:
    """Of the latents of all requests after all steps, together against alone."""
    driver = BatchDriver(checkpoint, batch, codec, keeps_steps=keeps_steps, lane_steps=lane_steps)
    driver.run()
    errors = [0.0]
    for rider, together, alone in zip(batch, driver.latents, latents_alone(checkpoint, batch, codec), strict=True):
        assert max(together) >= min(max(alone), rider.leaves or max(alone))
        assert set(together) == {step for step in alone if step <= max(together)}
        errors += [relative_error(latents, alone[step]) for step, latents in together.items()]
    return max(errors)


@pytest.mark.parametrize(
    ("kind", "codec"), [("builtin_kind", "raw"), ("builtin_kind", "int8"), ("flux_fill_kind", "raw")]
)
@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=BATCHES, keeps_steps=st.booleans(), lane_steps=st.integers(1, 3))
def test_each_request_of_a_batch_is_as_alone(
    kind: str, codec: CodecName, batch: list[Rider], keeps_steps: bool, lane_steps: int, request: pytest.FixtureRequest
) -> None:
    """Measured: 5e-7."""
    checkpoint = request.getfixturevalue(kind)
    assert worst_error(checkpoint, batch, codec, keeps_steps=keeps_steps, lane_steps=lane_steps) <= 1e-4


@pytest.fixture(scope="module")
def in_bfloat16(tiny_builtin: Path) -> Checkpoint:
    return load_checkpoint(tiny_builtin, torch.bfloat16, CPU)


@settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=BATCHES, keeps_steps=st.booleans(), lane_steps=st.integers(1, 3))
def test_each_request_of_a_batch_in_bfloat16_is_as_alone(
    in_bfloat16: Checkpoint, batch: list[Rider], keeps_steps: bool, lane_steps: int
) -> None:
    """Measured: no difference on a CPU, whose product of a row does not depend on the other rows. Elsewhere it may."""
    assert worst_error(in_bfloat16, batch, "raw", keeps_steps=keeps_steps, lane_steps=lane_steps) <= 1e-2


def hooked(checkpoint: Checkpoint, store: CountedStore | None = None) -> tuple[Editor, HookedForward]:
    """An editor with a forward that can be made to fail."""
    forward = HookedForward(checkpoint.forward)
    return an_editor(replace(checkpoint, forward=forward), store or CountedStore()), forward


def begun(editor: Editor, batch: Sequence[Rider]) -> list[RunningEdit]:
    """Their edits before the first step, with records."""
    return [editor.start(rider.request) for rider in batch]


class FailingLane(Lane):
    """Gives an edit what it recorded up to a block, at one step."""

    def __init__(self, *values: object, fails_at: tuple[int, int], **settings: object) -> None:
        super().__init__(*values, **settings)  # type: ignore[arg-type]
        self.fails_at = fails_at

    def context(self, step: int, positions: Tensor) -> StepContext | None:
        context = super().context(step, positions)
        if step != self.fails_at[0] or context is None:
            return context
        payloads, fails_at = context._payloads, self.fails_at[1]

        class Failing:
            def __getitem__(self, block: int) -> Tensor:
                if block == fails_at:
                    raise CacheError("the record is lost")
                return payloads[block]

        context._payloads = Failing()
        return context


@pytest.mark.parametrize("block", [0, 1])
def test_edit_whose_records_fail_on_the_way_is_dense_at_that_step_alone(builtin_kind: Checkpoint, block: int) -> None:
    editor, forward = hooked(builtin_kind, store := CountedStore())
    failing, *others = begun(editor, THREE)
    template = failing.template
    with store.create("again", template.form(forward).size(template.steps)) as writer:
        lane = FailingLane(forward, template, partial(put_record, writer), keeps_steps=True, fails_at=(1, block))
        failing.serve_from(lane)
        store.reads.clear()
        store.puts.clear()
        for step in range(4):
            forward.calls.clear()
            outcome = run_step(forward, [others[0], failing, others[1]], [LaneStep(lane, step)])
            assert not outcome.stuck
            assert len(forward.calls) == 1  # the pass that failed is not among them
            counts = [len(segment.tokens) for segment in forward.calls[0][0]]
            assert counts == [64, 6, 6, *2 * [64 if step == 1 else 6], 6, 6]
    assert store.puts == [(step, block) for step in range(4) for block in range(2)]
    assert store.reads == [0, 0, 1, 1, 1, 1, 2, 2, 3, 3]  # of the step that was begun anew, they are read again
    assert [edit.timings.dense_steps for edit in (others[0], failing, others[1])] == [0, 1, 0]
    assert failing.timings.cache == "partial"
    for edit, alone in zip(others, latents_alone(builtin_kind, THREE[1:], "raw"), strict=True):
        assert relative_error(edit.state.latents, alone[4]) <= 1e-5
    expected = with_dense_step(builtin_kind, THREE[0], 1)
    assert relative_error(failing.state.latents, expected) <= 1e-5
    for edit in (failing, *others):
        edit.close()
    assert store.is_idle


def with_dense_step(checkpoint: Checkpoint, rider: Rider, dense: int) -> Tensor:
    """The latents in the end, where one step is computed on all tokens."""
    store = CountedStore()
    editor = an_editor(checkpoint, store)
    with editor.start(rider.request) as edit:
        while not edit.done:
            reader = None if edit.step == dense else editor.shelf.read(edit)
            edit.serve_from(reader)
            edit.advance()
        return edit.state.latents


def test_refresh_that_fails_on_the_way_leaves_no_correction(builtin_kind: Checkpoint) -> None:
    editor, forward = hooked(builtin_kind, store := CountedStore())
    failing, other = begun(editor, [replace(rider, refreshes=1) for rider in THREE[:2]])
    template = failing.template
    with store.create("again", template.form(forward).size(template.steps)) as writer:
        lane = FailingLane(forward, template, partial(put_record, writer), keeps_steps=True, fails_at=(0, 1))
        failing.serve_from(lane)
        run_step(forward, [failing, other], [LaneStep(lane, 0)])
        assert (failing.timings.cache, failing.timings.refreshes, failing.timings.dense_steps) == ("partial", 0, 1)
        assert failing.state.correction is None
        assert (other.timings.cache, other.timings.refreshes, other.timings.dense_steps) == ("cold", 1, 1)
        assert other.state.correction is not None
        run_step(forward, [failing, other], [LaneStep(lane, 1)])
        assert [len(edit.timings.step_ms) for edit in (failing, other)] == [2, 2]
        assert [edit.timings.dense_steps for edit in (failing, other)] == [1, 1]
    for edit in (failing, other):
        edit.close()
    assert store.is_idle


def test_refresh_under_a_lost_lease_is_taken_back(builtin_kind: Checkpoint) -> None:
    editor, forward = hooked(builtin_kind, store := CountedStore())
    (edit,) = begun(editor, [replace(THREE[0], refreshes=1)])
    (lost,) = store.leases
    forward.on_block = lambda _: store.lost.add(lost)
    assert run_step(forward, [edit]).stuck == {edit}
    assert (edit.step, edit.state.correction, edit.timings.refreshes) == (0, None, 0)
    edit.close()


def test_step_under_a_lost_lease_is_taken_again_by_its_edit_alone(builtin_kind: Checkpoint) -> None:
    editor, forward = hooked(builtin_kind, store := CountedStore())
    edits = begun(editor, THREE)
    run_step(forward, edits)
    lost = next(lease for lease in store.leases if lease._template == edits[1].template_key)
    before = edits[1].state.latents
    forward.on_block = lambda _: store.lost.add(lost)
    assert run_step(forward, edits).stuck == {edits[1]}
    assert [edit.step for edit in edits] == [2, 1, 2]
    assert torch.equal(edits[1].state.latents, before)
    assert [len(edit.timings.step_ms) for edit in edits] == [2, 1, 2]
    assert not run_step(forward, edits).stuck
    assert [edit.step for edit in edits] == [3, 2, 3]
    assert [edit.timings.dense_steps for edit in edits] == [0, 1, 0]
    assert relative_error(edits[1].state.latents, latents_alone_with_dense_second_step(builtin_kind)) <= 1e-5
    for edit in edits:
        edit.close()
    assert store.is_idle


def latents_alone_with_dense_second_step(checkpoint: Checkpoint) -> Tensor:
    """Of the second of the three, after two steps."""
    editor = an_editor(checkpoint)
    with editor.start(THREE[1].request) as edit:
        edit.advance()
        edit.serve_from(None)
        edit.advance()
        return edit.state.latents


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", ["before", "on_block"])
def test_pass_that_raises_moves_no_edit(builtin_kind: Checkpoint, error: BaseException, at: str) -> None:
    editor, forward = hooked(builtin_kind, store := CountedStore())
    edits = begun(editor, THREE)

    def fail(_: object) -> None:
        raise error

    setattr(forward, at, fail)
    with pytest.raises(type(error)):
        run_step(forward, edits)
    assert [edit.step for edit in edits] == [0, 0, 0]
    setattr(forward, at, lambda _: None)
    while not edits[0].done:
        run_step(forward, edits)
    for edit, alone in zip(edits, latents_alone(builtin_kind, THREE, "raw"), strict=True):
        assert relative_error(edit.state.latents, alone[4]) <= 1e-5
        edit.close()
    assert store.is_idle


class FailingGuidance(Guidance):
    """Does not come to a velocity."""

    def combine(self, velocities: Sequence[Tensor]) -> NoReturn:
        assert len(velocities) == len(self.prompts)
        raise RuntimeError("out of memory")


def test_edits_that_had_moved_when_another_failed_are_put_back(builtin_kind: Checkpoint) -> None:
    """What is done with velocities takes memory, too, which may not be there."""
    editor, forward = hooked(builtin_kind)
    edits = begun(editor, THREE)
    edits[2].state.guidance = FailingGuidance(edits[2].state.guidance.prompts, 3.0, False)
    with pytest.raises(RuntimeError, match="out of memory"):
        run_step(forward, edits)
    assert [edit.step for edit in edits] == [0, 0, 0]
    run_step(forward, edits[:2])
    for edit, alone in zip(edits[:2], latents_alone(builtin_kind, THREE[:2], "raw"), strict=True):
        assert relative_error(edit.state.latents, alone[1]) <= 1e-5


def test_edits_that_cannot_all_be_opened_are_given_back(builtin_kind: Checkpoint) -> None:
    editor, forward = hooked(builtin_kind, store := CountedStore())
    edits = begun(editor, THREE)
    broken = edits[2].open_step

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no threads")

    edits[2].open_step = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError, match="no threads"):
        run_step(forward, edits)
    assert not forward.calls[len(THREE) * 4 :]  # of lanes alone
    edits[2].open_step = broken  # type: ignore[method-assign]
    assert not run_step(forward, edits).stuck
    for edit in edits:
        edit.close()
    assert store.is_idle


def test_one_pass_computes_all_of_a_step(builtin_kind: Checkpoint) -> None:
    """Edits with two passes and one, a dense one, and a lane of which two steps are recorded at a time."""
    editor, forward = hooked(builtin_kind)
    edits = begun(editor, [THREE[0], replace(THREE[1], guidance=1.0), replace(THREE[2], service="dense", guidance=0.0)])
    lane = Lane(forward, editor.encode(editor.prepare(Rider(picture=3).request)).template, lambda *_: None)
    forward.calls.clear()
    segments: list[Segment] = []
    forward.before = segments.extend
    outcome = run_step(forward, edits, [LaneStep(lane, 0), LaneStep(lane, 1)])
    assert len(forward.calls) == 1
    assert [len(segment.tokens) for segment in segments] == [64, 64, 6, 6, 6, 64]
    assert [segment.recorder is not None for segment in segments] == [True, True, False, False, False, False]
    assert lane.next_step == 2
    assert [edit.batch for edit in edits] == [3, 3, 3]
    run_step(forward, edits[:1])
    assert [edit.batch for edit in edits] == [2, 3, 3]
    assert edits[1].timings.step_ms == [outcome.ms]
    # The device's time is divided by what each computed.
    parts = [edit.device_ms for edit in edits[1:]]
    rows = [sum(len(s.tokens) + len(s.text) for s in part) for part in (segments[4:5], segments[5:6])]
    assert parts[1] / parts[0] == pytest.approx(rows[1] / rows[0])
    all_rows = sum(len(segment.tokens) + len(segment.text) for segment in segments[:6])
    assert lane.compute_ms == pytest.approx(
        outcome.ms * sum(len(s.tokens) + len(s.text) for s in segments[:2]) / all_rows
    )
