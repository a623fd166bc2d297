"""Draws: masks, arrivals, popularity; and files of requests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from instgenie.sim.arrivals import bursty_times, poisson_times
from instgenie.sim.mask_ratios import QUANTILES, MixName, draw_mask_ratios
from instgenie.sim.trace import SimRequest, at_rate, read_trace, write_trace
from instgenie.sim.workload import Workload


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.mark.parametrize(("mix", "mean", "median"), [("production", 0.112, 0.095), ("katz", 0.193, 0.056)])
def test_masks_are_those_of_the_traces(mix: MixName, mean: float, median: float) -> None:
    ratios = draw_mask_ratios(mix, 100_000, rng())
    assert ratios.mean() == pytest.approx(mean, abs=0.003)
    assert np.median(ratios) == pytest.approx(median, abs=0.002)
    assert len(QUANTILES[mix]) == 101
    assert (np.diff(QUANTILES[mix]) >= 0).all()


def test_large_masks_are_as_frequent_as_published() -> None:
    assert (draw_mask_ratios("katz", 100_000, rng()) > 0.5).mean() == pytest.approx(0.135, abs=0.01)


@pytest.mark.parametrize("draw", [poisson_times, bursty_times])
def test_one_request_a_second_comes_on_average(draw: object) -> None:
    times = draw(200_000, rng())  # type: ignore[operator]
    assert len(times) == 200_000
    assert (np.diff(times) >= 0).all()
    assert times[-1] == pytest.approx(200_000, rel=0.05)


def test_bursts_are_burstier_than_chance() -> None:
    """Requests of ten seconds: their variance is their mean for a Poisson process."""
    poisson, bursty = (np.bincount(draw(100_000, rng()).astype(int) // 10) for draw in (poisson_times, bursty_times))
    assert poisson.var() / poisson.mean() == pytest.approx(1.0, rel=0.1)
    assert bursty.var() / bursty.mean() > 3


def test_bursts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="times the rate cannot take"):
        bursty_times(10, rng(), burst_rate=20.0, burst_share=0.1)


def test_popularity_is_zipf() -> None:
    requests = Workload(zipf=1.0, templates=10).draw(50_000, 1.0, seed=1)
    counts = {name: sum(request.template == name for request in requests) for name in ("t0", "t1", "t9")}
    assert counts["t0"] / counts["t1"] == pytest.approx(2, rel=0.1)
    assert counts["t0"] / counts["t9"] == pytest.approx(10, rel=0.1)


def test_another_rate_is_other_times_alone() -> None:
    slow, fast = (Workload().draw(50, per_second, seed=2) for per_second in (1.0, 2.0))
    assert [request.seconds / 2 for request in slow] == pytest.approx([request.seconds for request in fast])
    assert [(r.template, r.mask_ratio) for r in slow] == [(r.template, r.mask_ratio) for r in fast]


def test_trace_comes_back_from_its_file(tmp_path: Path) -> None:
    requests = Workload(steps=7, passes=2).draw(20, 3.0, seed=4)
    write_trace(tmp_path / "trace.jsonl", reversed(requests))
    assert read_trace(tmp_path / "trace.jsonl") == requests


def test_trace_at_another_rate() -> None:
    requests = [SimRequest(seconds, "a", 0.1, 4, 2) for seconds in (0.0, 1.0, 4.0)]
    assert [request.seconds for request in at_rate(requests, 3.0)] == [0.0, 0.25, 1.0]
    with pytest.raises(ValueError, match="at once"):
        at_rate(requests[:1], 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_ratio": 1.5}, "mask_ratio is 1.5"),
        ({"steps": 0}, "steps are 0"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"seconds": -1}, "seconds is -1"),
        ({"template": 3}, "template is 3"),
        ({"size": 3}, "there is no size"),
    ],
)
def test_a_line_that_is_no_request_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    good = {"seconds": 0.0, "template": "a", "mask_ratio": 0.1, "steps": 4}
    file = tmp_path / "trace.jsonl"
    file.write_text(json.dumps(good) + "\n\n" + json.dumps(good | change) + "\n")
    with pytest.raises(ValueError, match=f"line 3: {message}"):
        read_trace(file)


def test_a_field_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "trace.jsonl").write_text('{"seconds": 0, "template": "a", "steps": 4}\n')
    with pytest.raises(ValueError, match="mask_ratio is missing"):
        read_trace(tmp_path / "trace.jsonl")
