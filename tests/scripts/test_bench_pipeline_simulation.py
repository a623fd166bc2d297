"""The simulation of plans: its cases are what they say, its books are right, its files are complete and repeatable."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench.pipeline_simulation import (
    BLOCKS,
    BUFFER_RECORDS,
    CASES,
    LOADS,
    MASKS,
    dearer_double_blocks,
    drawn_blocks,
    last_third_on_device,
    loss_of_buffer,
    loss_of_policy,
    main,
    plot,
    simulate,
)
from instgenie.pipeline.policies import PLAN_POLICIES


def test_equal_blocks_by_hand() -> None:
    """Loads that take as long as full blocks: 57 of them and a masked block, where every record is waited for."""
    (cached,) = (row for row in simulate("equal") if (row.policy, row.load, row.masked) == ("always_cached", 1.0, 0.5))
    assert cached.over_dense == pytest.approx(57.5 / 57)
    assert cached.stall == pytest.approx((57 - 56 * 0.5) / 57.5)


def test_ours_is_the_optimum_of_equal_blocks_and_greedy_is_not() -> None:
    outcomes = simulate("equal")
    assert len(outcomes) == len(LOADS) * len(MASKS) * len(PLAN_POLICIES)
    assert loss_of_policy(outcomes, "full_prefix").worst < 1e-9
    greedy = loss_of_policy(outcomes, "greedy")
    assert 0.1 < greedy.mean < greedy.worst < 1


def test_cases_are_what_they_say() -> None:
    costs = dearer_double_blocks(1.2)(0.5, 0.25)
    assert (costs.full_ms[18], costs.full_ms[19], costs.masked_ms[0]) == (1.2, 1.0, 0.3)
    assert [load_ms > 0 for load_ms in last_third_on_device(0.5, 0.25).load_ms] == [True] * 38 + [False] * 19
    drawn = drawn_blocks(0.5, 0.25)
    assert drawn == drawn_blocks(0.5, 0.25)
    assert sum(drawn.full_ms) / BLOCKS == pytest.approx(1.0, rel=0.3)
    assert sum(drawn.load_ms) / BLOCKS == pytest.approx(0.5, rel=0.3)
    assert sum(drawn.masked_ms) / BLOCKS == pytest.approx(0.25, rel=0.3)


def test_larger_buffers_lose_less() -> None:
    losses = [loss_of_buffer(records).mean for records in (1, 8, BLOCKS)]
    assert losses[0] > losses[1] > losses[2] == 0


def test_same_figures_are_the_same_plot(tmp_path: Path) -> None:
    outcomes = simulate("equal")
    files = [tmp_path / name / "plot.svg" for name in "ab"]
    for file in files:
        file.parent.mkdir()
        plot(outcomes, file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_tables_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "simulation.json"
    monkeypatch.setattr(sys, "argv", ["pipeline_simulation.py", "--json", str(path)])
    main()
    printed = capsys.readouterr().out
    assert all(name in printed for name in [*PLAN_POLICIES, *CASES])
    content = json.loads(path.read_text())
    assert set(content) == {"about", "environment", "over_optimum", "over_unlimited", "equal_blocks"}
    assert len(content["over_optimum"]) == len(CASES) * len(PLAN_POLICIES)
    assert [row["buffer_records"] for row in content["over_unlimited"]] == list(BUFFER_RECORDS)
    assert all(policy in path.with_suffix(".svg").read_text() for policy in PLAN_POLICIES)
