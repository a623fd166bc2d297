"""The compile benchmark's own arithmetic; its figures are not tested."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bench.compile import HEADING, Row, Subject, line, measure, segments_of
from instgenie.pipeline.probe import UsualEdit
from tests.instgenie.tiny_flux import tiny_forward


def test_the_speed_up_is_taken_over_plain_blocks_of_the_same_round() -> None:
    now = 0.0

    def lasting(*seconds: float) -> Callable[[], None]:
        durations = iter(seconds)

        def run() -> None:
            nonlocal now
            now += next(durations)

        return run

    plain, compiled = lasting(9, 2, 4, 12), lasting(9, 1, 1, 2)  # the first round warms up
    assert measure(plain, compiled, 3, lambda: now) == (4000, 1000, 4)


def test_a_batch_has_every_branch_of_its_edits_and_a_context_for_each() -> None:
    subject = Subject("tiny", tiny_forward().transformer, UsualEdit(60, 4), branches=2)
    segments = segments_of(subject, 3, 0.2)
    assert [len(segment.tokens) for segment in segments] == [12] * 6
    for segment in segments:
        assert segment.context is not None
        assert len(segment.context.context(0).key) == 48
    assert segments[0].context is segments[1].context
    assert all(torch.isfinite(velocity).all() for velocity in tiny_forward()(segments))


def test_a_line_stands_under_its_heading() -> None:
    found = line(Row("tiny", "fixed", 4, 0.2, 70, 80, 12.34, 10.0, 1.234))
    assert found.split() == ["tiny", "fixed", "4", "0.20", "70", "80", "12.3", "10.0", "1.23"]
    assert len(found) == len(HEADING)


@pytest.mark.parametrize("share", [0.05, 1.0])
def test_masks_of_any_size_can_be_timed(share: float) -> None:
    subject = Subject("tiny", tiny_forward().transformer, UsualEdit(60, 4), branches=1)
    (segment,) = segments_of(subject, 1, share)
    assert len(segment.tokens) == round(60 * share)
