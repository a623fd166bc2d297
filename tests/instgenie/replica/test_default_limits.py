"""How large batches are where nobody says."""

from __future__ import annotations

from dataclasses import replace

from instgenie.checkpoint import Checkpoint
from instgenie.free_memory import available_memory_bytes
from instgenie.replica.default_limits import default_limits


def test_limits_of_a_cpu(builtin_kind: Checkpoint) -> None:
    limits = default_limits(builtin_kind)
    assert limits.num_bytes is not None
    assert 0 < limits.num_bytes < available_memory_bytes()
    assert limits.lane_rows == 1  # a step at a time
    assert limits.rows >= 4096


def test_two_dense_edits_fit_whatever_the_model(builtin_kind: Checkpoint) -> None:
    huge = replace(builtin_kind, settings=replace(builtin_kind.settings, canvas_tokens=60_000))
    assert default_limits(huge).rows >= 120_000


def test_two_edits_may_begin_with_a_refresh_whatever_the_model(builtin_kind: Checkpoint) -> None:
    """Each prompt of an edit computes all image tokens and its text."""
    settings = replace(builtin_kind.settings, canvas_tokens=4096, text_tokens=512)
    assert default_limits(replace(builtin_kind, settings=settings)).rows >= 2 * 2 * (4096 + 512)
    assert default_limits(replace(builtin_kind, settings=settings, distilled=True)).rows < 2 * 2 * (4096 + 512)
