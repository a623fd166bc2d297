"""Intervals between moments, on the CPU by the clock, on CUDA by what the device has done."""

from __future__ import annotations

import pytest
import torch

from instgenie.pipeline.marks import marks_on


def test_intervals_of_a_clock() -> None:
    moments = iter([1.0, 1.5, 1.5, 4.0])
    marks = marks_on(torch.device("cpu"), lambda: next(moments))
    assert marks.intervals_ms() == []
    for _ in range(4):
        marks.add()
    assert marks.intervals_ms() == [500.0, 0.0, 2500.0]


@pytest.mark.gpu
def test_intervals_of_a_stream() -> None:
    device = torch.device("cuda")
    x = torch.randn(2048, 2048, device=device)
    marks = marks_on(device)
    assert marks.intervals_ms() == []
    marks.add()
    x @ x
    marks.add()
    for _ in range(50):
        x @ x
    marks.add()
    short_ms, long_ms = marks.intervals_ms()
    assert 0 < short_ms < long_ms
