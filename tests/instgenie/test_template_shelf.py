"""Templates' records: what is begun, refused, found and dropped."""

from __future__ import annotations

import pytest

from instgenie.checkpoint import Checkpoint
from instgenie_cache import BeingWrittenError, MemoryStore, TemplateSize, TemplateWriter
from tests.instgenie.batches import CountedStore, Rider
from tests.instgenie.edits import PLENTY_BYTES, BrokenStore, an_editor

RIDER = Rider()


class TakenStore(MemoryStore):
    """Somebody else writes every template, and is through with it as soon as he is asked, or not."""

    def __init__(self, *, finished: bool) -> None:
        super().__init__(PLENTY_BYTES)
        self.finished = finished

    def create(self, template: str, size: TemplateSize) -> TemplateWriter:
        raise BeingWrittenError("being written by another writer")

    def holds(self, template: str) -> bool:
        return self.finished


@pytest.mark.parametrize(("finished", "outcome"), [(True, "hit"), (False, "refused")])
def test_recording_that_another_has_begun(builtin_kind: Checkpoint, finished: bool, outcome: str) -> None:
    editor = an_editor(builtin_kind, TakenStore(finished=finished))
    template = editor.encode(editor.prepare(RIDER.request)).template
    assert editor.shelf.begin_record(template) == editor.shelf.record(template) == outcome


def test_recording_that_is_begun_can_be_given_up(builtin_kind: Checkpoint) -> None:
    store = CountedStore()
    editor = an_editor(builtin_kind, store)
    edit = editor.encode(editor.prepare(RIDER.request))
    writer = editor.shelf.begin_record(edit.template)
    assert not isinstance(writer, str)
    assert editor.shelf.read(edit) is None
    writer.abort()
    assert store.is_idle
    assert editor.shelf.record(edit.template) == "cold"
    reader = editor.shelf.read(edit)
    assert reader is not None
    assert edit.timings.tier == "host"
    reader.close()
    assert store.is_idle


def test_store_that_answers_nothing_costs_records_alone(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind, BrokenStore(PLENTY_BYTES))
    edit = editor.encode(editor.prepare(RIDER.request))
    assert editor.shelf.read(edit) is None
    assert editor.shelf.begin_record(edit.template) == "refused"
    assert not editor.shelf.holds(edit.template_key)
