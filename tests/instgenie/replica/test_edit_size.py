"""What an edit takes of a device's memory."""

from __future__ import annotations

from instgenie.checkpoint import Checkpoint
from instgenie.replica.edit_size import EditSize
from tests.instgenie.batches import Rider
from tests.instgenie.edits import an_editor


def test_size_grows_with_what_is_computed(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind)
    size = EditSize.of(editor)
    small, halo, one_pass, all_of_it = (
        size.num_bytes(editor.prepare(rider.request))
        for rider in (Rider(), Rider(halo=1), Rider(guidance=1.0), Rider(box=(0, 0, 64, 64)))
    )
    assert one_pass < small < halo < all_of_it
    editor.close()


def test_size_is_of_the_right_magnitude(builtin_kind: Checkpoint) -> None:
    """State: five tensors of 64 tokens at least; a step: 24 tensors of 32 channels for each token and pass."""
    editor = an_editor(builtin_kind)
    size, prepared = EditSize.of(editor), editor.prepare(Rider().request)
    with editor.encode(prepared) as edit:
        state = edit.state
        assert size.num_bytes(prepared) >= 5 * state.latents.nbytes
        rows = 2 * (size.text_tokens + prepared.index.num_active)
        assert size.row_bytes == 24 * 32 * 4
        assert size.num_bytes(prepared) == 64 * size.state_bytes + rows * size.row_bytes
    assert size.text_tokens == len(builtin_kind.prompts.encode(["an edit"])[0].states)
    editor.close()


def test_refreshed_edits_hold_a_correction_and_compute_all_tokens(builtin_kind: Checkpoint) -> None:
    editor = an_editor(builtin_kind)
    size = EditSize.of(editor)
    plain, refreshed = (editor.prepare(Rider(refreshes=refreshes).request) for refreshes in (0, 1))
    with editor.start(Rider(refreshes=1).request) as edit:
        edit.advance()
        assert edit.state.correction is not None
        held = sum(change.num_bytes for branch in edit.state.correction.branches for change in branch)
    context_tokens = plain.index.num_tokens - plain.index.num_active
    assert held == 2 * context_tokens * size.correction_bytes
    assert size.num_bytes(refreshed) - size.num_bytes(plain) == held + 2 * context_tokens * size.row_bytes
    editor.close()


def test_corrections_that_are_held_at_once(builtin_kind: Checkpoint) -> None:
    """Two at most; none is held of the last step, and of one that another refresh follows."""
    editor = an_editor(builtin_kind)
    size = EditSize.of(editor)
    plain = editor.prepare(Rider(steps=4).request)
    context_tokens = plain.index.num_tokens - plain.index.num_active
    found = {}
    for refreshes, steps in ((1, 4), (2, 4), (3, 12), (5, 20), (4, 4), (1, 1)):
        prepared = editor.prepare(Rider(refreshes=refreshes, steps=steps).request)
        more = size.num_bytes(prepared) - size.num_bytes(plain) - 2 * context_tokens * size.row_bytes
        found[refreshes, steps] = more / (2 * context_tokens * size.correction_bytes)
    assert found == {(1, 4): 1, (2, 4): 1, (3, 12): 2, (5, 20): 2, (4, 4): 0, (1, 1): 0}
    editor.close()
