"""Edits of templates of which only some steps were recorded."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instgenie.checkpoint import Checkpoint
from instgenie.codecs import CODEC_NAMES, CodecName
from instgenie.editor import Editor
from instgenie.errors import ParameterError, TemplateNotCachedError
from instgenie.keyframes import Keyframes
from instgenie.request import EditRequest, EditResult
from instgenie.warm_request import WarmRequest
from instgenie_cache import MemoryStore, TemplateSize, TemplateWriter
from instgenie_cache.stores.build_store import StoreSettings, build_store
from tests.instgenie.edits import PLENTY_BYTES, TappedStore, a_request, an_editor, pixels, random_picture

STEPS = 12
DRIFT = 0.2
MIN_PSNR_DB = 45.0  # 63 dB are measured, 13 dB for another seed
MIB = 1 << 20


def an_edit(**settings: Any) -> EditRequest:
    return a_request(steps=STEPS, refreshes=0, **settings)


def key_of(editor: Editor, request: EditRequest) -> str:
    with editor.start(request) as running:
        return running.template_key


def kept_by(editor: Editor, request: EditRequest) -> tuple[int, ...]:
    """The steps of the edit's template that were recorded."""
    lease = editor.store.lease(key_of(editor, request))
    assert lease is not None
    with lease:
        return Keyframes.read(lease.note, STEPS).kept


def psnr_in_mask(one: EditResult, other: EditResult, request: EditRequest) -> float:
    """In dB."""
    difference = pixels(one.picture).astype(float) - pixels(other.picture)
    error = float((difference[request.mask] ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_fewer_bytes_and_nearly_the_same_picture(builtin_kind: Checkpoint, codec: CodecName) -> None:
    every, some = an_editor(builtin_kind, codec=codec), an_editor(builtin_kind, codec=codec, drift=DRIFT)
    expected, found = every.edit(an_edit()), some.edit(an_edit())
    assert (found.timings.cache, found.timings.dense_steps) == ("cold", 0)
    kept = kept_by(some, an_edit())
    assert 2 < len(kept) <= STEPS / 2
    assert some.store.stats().used_bytes == every.store.stats().used_bytes * len(kept) / STEPS
    another_seed = every.edit(an_edit(seed=7))
    assert psnr_in_mask(found, expected, an_edit()) > MIN_PSNR_DB
    assert psnr_in_mask(another_seed, expected, an_edit()) < MIN_PSNR_DB - 6  # so that it means something


def test_smaller_drift_keeps_more_and_is_closer(builtin_kind: Checkpoint) -> None:
    expected = an_editor(builtin_kind).edit(an_edit())
    editors = [an_editor(builtin_kind, drift=drift) for drift in (0.1, 0.2, 0.6)]
    found = [editor.edit(an_edit()) for editor in editors]
    kept = [len(kept_by(editor, an_edit())) for editor in editors]
    assert STEPS > kept[0] > kept[1] > kept[2] > 1
    likeness = [psnr_in_mask(result, expected, an_edit()) for result in found]
    assert likeness[0] > likeness[1] > likeness[2]


def test_drift_that_no_step_is_below_changes_nothing(builtin_kind: Checkpoint) -> None:
    every, all_drifted = an_editor(builtin_kind), an_editor(builtin_kind, drift=1e-9)
    expected, found = every.edit(an_edit()), all_drifted.edit(an_edit())
    assert np.array_equal(pixels(found.picture), pixels(expected.picture))
    assert kept_by(all_drifted, an_edit()) == tuple(range(STEPS))


def test_edit_of_the_last_steps_alone_reads_the_rows_that_serve_them(builtin_kind: Checkpoint) -> None:
    store = TappedStore()
    editor = an_editor(builtin_kind, store, drift=DRIFT)
    some = Keyframes(kept_by(editor, an_edit()), STEPS)
    store.reads.clear()
    result = editor.edit(an_edit(strength=0.5))
    assert (result.timings.cache, result.timings.dense_steps) == ("hit", 0)
    assert set(store.reads) == {some.row_of(step) for step in range(STEPS // 2, STEPS)}


def test_records_of_another_drift_are_another_template(builtin_kind: Checkpoint) -> None:
    store = MemoryStore(PLENTY_BYTES)
    for drift in (0.0, 0.1, 0.2):
        assert an_editor(builtin_kind, store, drift=drift).edit(an_edit()).timings.cache == "cold"
    for drift in (0.0, 0.1, 0.2):
        assert an_editor(builtin_kind, store, drift=drift).edit(an_edit()).timings.cache == "hit"


def test_template_outlives_its_editor(builtin_kind: Checkpoint, tmp_path: Path) -> None:
    settings = StoreSettings(host_bytes=64 * MIB, folder=tmp_path / "records", disk_bytes=64 * MIB)
    first = an_editor(builtin_kind, build_store(settings), drift=DRIFT)
    cold, host = first.edit(an_edit()), first.edit(an_edit())
    first.close()
    second = an_editor(builtin_kind, build_store(settings), drift=DRIFT)
    disk = second.edit(an_edit())
    second.close()
    assert [(r.timings.cache, r.timings.tier, r.timings.dense_steps) for r in (cold, host, disk)] == [
        ("cold", None, 0),
        ("hit", "host", 0),
        ("hit", "disk", 0),
    ]
    assert len({pixels(r.picture).tobytes() for r in (cold, host, disk)}) == 1


def test_kept_steps_alone_are_on_the_device(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind, drift=DRIFT, device_cache_bytes=64 * MIB)
    cold, device = editor.edit(an_edit()), editor.edit(an_edit())
    assert device.timings.tier == "device"
    assert np.array_equal(pixels(cold.picture), pixels(device.picture))
    assert editor.shelf.device_tier.used_bytes == editor.store.stats().used_bytes


def test_warming_tells_what_was_stored(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind, drift=DRIFT)
    (warmed,) = editor.warm(WarmRequest(picture=random_picture(), steps=STEPS))
    assert (warmed.outcome, warmed.num_bytes) == ("cold", editor.store.stats().used_bytes)
    (again,) = editor.warm(WarmRequest(picture=random_picture(), steps=STEPS))
    assert replace(again, outcome="cold") == warmed
    assert editor.edit(an_edit()).timings.cache == "hit"


class NotedStore(MemoryStore):
    """Leaves its own notes with the first templates that are written."""

    def __init__(self, *notes: bytes) -> None:
        super().__init__(PLENTY_BYTES)
        self.notes = list(notes)

    def create(self, template: str, size: TemplateSize) -> TemplateWriter:
        writer = super().create(template, size)
        commit = writer.commit

        def commit_noted(cost_ms: float = 0.0, *, steps: int | None = None, note: bytes = b"") -> None:
            commit(cost_ms, steps=steps, note=self.notes.pop(0) if self.notes else note)

        writer.commit = commit_noted  # type: ignore[method-assign]
        return writer


@pytest.mark.parametrize("drift", [0.0, DRIFT])
@pytest.mark.parametrize("note", [b"rubbish", Keyframes((0, 2), STEPS - 1).note], ids=["rubbish", "other steps"])
def test_note_that_cannot_be_made_out_costs_a_recording(builtin_kind: Checkpoint, drift: float, note: bytes) -> None:
    expected = an_editor(builtin_kind, drift=drift).edit(an_edit())
    store = NotedStore(note)
    editor = an_editor(builtin_kind, store, drift=drift)
    first, second, third = (editor.edit(an_edit()) for _ in range(3))
    # Whoever has just recorded and cannot read it computes; the next one finds nothing, and records anew.
    assert (first.timings.cache, first.timings.dense_steps) == ("refused", STEPS)
    assert (second.timings.cache, second.timings.dense_steps) == ("cold", 0)
    assert (third.timings.cache, third.timings.dense_steps) == ("hit", 0)
    assert store.stats().templates == 1
    for result in (second, third):
        assert np.array_equal(pixels(result.picture), pixels(expected.picture))


def test_note_that_cannot_be_made_out_of_an_edit_that_must_hit(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind, NotedStore(b"rubbish"), drift=DRIFT)
    list(editor.warm(WarmRequest(picture=random_picture(), steps=STEPS)))
    with pytest.raises(TemplateNotCachedError):
        editor.edit(an_edit(must_hit=True))
    assert editor.store.stats().templates == 0


def test_note_of_steps_that_are_not_there_costs_dense_steps(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind, NotedStore(b""), drift=DRIFT)  # which says that every step is there
    result = editor.edit(an_edit())
    assert result.timings.cache == "partial"
    assert 0 < result.timings.dense_steps < STEPS


@pytest.mark.parametrize("drift", [-0.1, 1.0, math.nan, math.inf])
def test_drift_outside_its_limits_is_refused(builtin_kind: Checkpoint, drift: float) -> None:
    with pytest.raises(ParameterError, match=r"drift: .* is not in 0 <= drift < 1"):
        an_editor(builtin_kind, drift=drift)
