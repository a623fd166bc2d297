"""The benchmark of the front end: its requests are answered; its figures are not tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.server import cases, measure, server, spread


@pytest.mark.timeout(240)
def test_every_case_is_answered(tmp_path: Path) -> None:
    with server(tmp_path) as (process_id, port):
        results = measure(process_id, port, cases(), requests=2)
    assert results.keys() == {case.name for case in cases()}
    for figures in results.values():
        assert 0 < figures["p10_ms"] <= figures["median_ms"] <= figures["p90_ms"] <= figures["p99_ms"]
        assert figures["cpu_ms"] > 0


def test_spread() -> None:
    figures = spread([float(number) for number in range(1, 101)])
    assert figures["median_ms"] == 50.5
    assert figures["p10_ms"] == pytest.approx(10.9)
    assert figures["p90_ms"] == pytest.approx(90.1)
