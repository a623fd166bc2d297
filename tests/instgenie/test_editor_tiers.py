"""Records that outlive their editor, in the tiers of a real store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from instgenie.checkpoint import Checkpoint
from instgenie.codecs import CODEC_NAMES, CodecName
from instgenie.editor import Editor
from instgenie_cache import Record, TemplateSize
from instgenie_cache.stores import tiered_writer
from instgenie_cache.stores.build_store import StoreSettings, build_store
from instgenie_cache.tiers.arena import PAGE_BYTES
from tests.instgenie.edits import a_request, an_editor, pixels, watched

OpenEditor = Callable[..., Editor]
MIB = 1 << 20


@pytest.fixture
def open_editor(builtin_kind: Checkpoint, tmp_path: Path) -> OpenEditor:
    """Makes an editor with a store of its own on one folder, which one at a time may have."""

    def open_editor(codec: CodecName = "raw", device_cache_bytes: int = 0) -> Editor:
        settings = StoreSettings(host_bytes=64 * MIB, folder=tmp_path / "records", disk_bytes=64 * MIB)
        return an_editor(builtin_kind, build_store(settings), codec=codec, device_cache_bytes=device_cache_bytes)

    return open_editor


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_template_outlives_its_editor(open_editor: OpenEditor, codec: CodecName) -> None:
    first = open_editor(codec)
    cold = first.edit(a_request())
    host = first.edit(a_request())
    first.flush()
    first.close()
    second = open_editor(codec)
    assert second.holds(a_request())
    disk, after = second.edit(a_request()), second.edit(a_request())
    second.close()
    assert [(r.timings.cache, r.timings.tier, r.timings.dense_steps) for r in (cold, host, disk, after)] == [
        ("cold", None, 0),
        ("hit", "host", 0),
        ("hit", "disk", 0),
        ("hit", "host", 0),
    ]
    assert len({pixels(r.picture).tobytes() for r in (cold, host, disk, after)}) == 1


def test_device_is_asked_before_the_disk(open_editor: OpenEditor) -> None:
    first = open_editor()
    expected = first.edit(a_request())
    first.close()
    second = open_editor(device_cache_bytes=64 * MIB)
    disk, device = second.edit(a_request()), second.edit(a_request())
    second.close()
    assert [r.timings.tier for r in (disk, device)] == ["disk", "device"]
    assert np.array_equal(pixels(device.picture), pixels(expected.picture))


def test_forgotten_template_does_not_come_back(open_editor: OpenEditor) -> None:
    first = open_editor(device_cache_bytes=64 * MIB)
    with first.start(a_request()) as running:
        key = running.template_key
    first.edit(a_request())
    assert first.pin(key)
    first.forget(key)
    assert first.num_bytes(key) is None
    first.close()
    second = open_editor()
    assert second.edit(a_request()).timings.cache == "cold"
    second.close()


def test_unpinned_template_stays_and_closing_twice_is_closing_once(open_editor: OpenEditor) -> None:
    editor = open_editor()
    with editor.start(a_request()) as running:
        key = running.template_key
    assert editor.pin(key)
    editor.unpin(key)
    assert editor.num_bytes(key) is not None
    editor.close()
    editor.close()


def test_successor_of_a_template_that_was_deleted_during_an_edit_stays(
    builtin_kind: Checkpoint, tmp_path: Path
) -> None:
    """The edit computes the steps that it has not read yet, and leaves the store as it is."""
    settings = StoreSettings(host_bytes=64 * MIB, folder=tmp_path / "records", disk_bytes=64 * MIB)
    store = build_store(settings)
    editor, other = an_editor(builtin_kind, store, device_cache_bytes=64 * MIB), an_editor(builtin_kind, store)
    editor.edit(a_request(seed=1))
    editor.shelf.device_tier.clear()
    with editor.start(a_request()) as running:
        running.advance()
        other.forget(running.template_key)
        assert other.edit(a_request()).timings.cache == "cold"
        while not running.done:
            running.advance()
        assert (running.timings.cache, running.timings.dense_steps) == ("partial", 3)
    assert editor.shelf.device_tier.used_bytes == 0
    timings = editor.edit(a_request()).timings
    assert (timings.cache, timings.dense_steps) == ("hit", 0)
    store.close()


@pytest.mark.parametrize("free_pages", [0, 1])
def test_recording_into_a_store_that_has_hardly_room(
    builtin_kind: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_pages: int
) -> None:
    """With room for one step the lane waits for the disk, step by step; with none it ends at its first step."""
    if free_pages:  # which the disk frees as soon as it can
        monkeypatch.setattr(tiered_writer, "ROOM_SECONDS", 30.0)
    checkpoint, forward = watched(builtin_kind)
    pages = free_pages + 1
    store = build_store(StoreSettings(host_bytes=pages * PAGE_BYTES, folder=tmp_path / "records", disk_bytes=64 * MIB))
    checks: list[None] = []
    with store.create("other", TemplateSize(1, 2, 4)) as writer:
        editor = an_editor(checkpoint, store)
        writer.put(0, 0, Record("raw", "float32", (1,), memoryview(bytes(4))))  # half a step keeps its page
        with editor.start(a_request(), lambda: checks.append(None)) as running:
            lane_steps = len(forward.calls)
            while not running.done:
                running.advance()
    assert (lane_steps, len(checks)) == ((4, 4) if free_pages else (0, 1))
    assert (running.timings.cache, running.timings.dense_steps) == (("cold", 0) if free_pages else ("refused", 4))
    store.close()
