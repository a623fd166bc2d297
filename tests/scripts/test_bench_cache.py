"""The benchmark of the cache: its figures, and a run of its parts on a real service."""

from __future__ import annotations

import pytest

from bench.cache import Row, _payload, compared, round_trips, running_service, warm_reads


def test_ratios_are_taken_within_a_round() -> None:
    row = compared("x", 2_000_000_000, [(1.0, 0.5), (2.0, 4.0), (4.0, 4.0)], 0.8)
    assert (row.value, row.plain, row.ratio) == (1.0, 0.5, 1.0)
    assert row.is_met


@pytest.mark.parametrize(
    ("value", "ratio", "target", "is_met"),
    [(1, 0.79, 0.8, False), (150, None, 200, True), (250, None, 200, False), (1, 0.1, None, None)],
)
def test_target(value: float, ratio: float | None, target: float | None, is_met: bool | None) -> None:
    assert Row("x", "us", value, None, ratio, target).is_met is is_met


def test_warm_reads_of_a_real_service(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("bench")
    with running_service(folder / "s", 256 << 20) as address:
        rows = [*warm_reads(address, _payload(), 1), round_trips(address)]
    assert [row.unit for row in rows] == ["GB/s"] * 3 + ["us"]
    assert all(row.value > 0 for row in rows)
