"""An edit as far as it can be told without the model."""

from __future__ import annotations

import threading

import pytest

from instgenie.checkpoint import Checkpoint
from instgenie.errors import InvalidInputError
from tests.instgenie.batches import Rider
from tests.instgenie.edits import an_editor, watched

EVERYTHING = (0, 0, 64, 64)


@pytest.mark.parametrize(
    ("rider", "is_cached"),
    [(Rider(), True), (Rider(service="dense"), False), (Rider(box=EVERYTHING), False), (Rider(halo=8), False)],
)
def test_edit_asks_for_records_where_it_leaves_something_out(
    builtin_kind: Checkpoint, rider: Rider, is_cached: bool
) -> None:
    assert an_editor(builtin_kind).prepare(rider.request).is_cached is is_cached


def test_several_threads_may_prepare_and_the_model_is_not_asked(builtin_kind: Checkpoint) -> None:
    checkpoint, forward = watched(builtin_kind)
    editor, made = an_editor(checkpoint), {}

    def prepare(number: int) -> None:
        made[number] = editor.prepare(Rider(picture=number, halo=number).request)

    threads = [threading.Thread(target=prepare, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        alone = editor.prepare(Rider(picture=number, halo=number).request)
        assert (made[number].key, made[number].index.num_active) == (alone.key, alone.index.num_active)
    assert not forward.calls


def test_what_does_not_fit_is_told_before_anything_is_encoded(builtin_kind: Checkpoint) -> None:
    with pytest.raises(InvalidInputError):
        an_editor(builtin_kind).prepare(Rider(steps=0).request)
