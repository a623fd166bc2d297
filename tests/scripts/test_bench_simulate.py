"""The comparison of policies runs, says what it says, and plays files; the validation computes what it compares."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.simulate import Run, main, targets
from instgenie.balancer.policies import POLICIES, PolicyName
from instgenie.sim.figures import Figures
from instgenie.sim.trace import write_trace
from instgenie.sim.workload import Workload

FIGURES = Figures(
    mean=1.0, p50=1.0, p95=1.0, p99=1.0, per_second=1.0, offered=1.0, served={}, mean_batch=1.0, busy=0.5, imbalance=0.0
)


def a_run(policy: PolicyName, p95: float, per_second: float = 1.0) -> Run:
    return Run(8, 0.8, policy, replace(FIGURES, p95=p95, per_second=per_second), 0.5, 0.9, 1.0)


def test_quick_run_has_every_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    main(["--quick", "--processes", "1", "--out", str(out)])
    printed = capsys.readouterr().out
    content = json.loads(out.read_text())
    results = content["results"]
    assert {(row["load"], row["policy"]) for row in results} == {
        (load, name) for load in (0.5, 0.8) for name in POLICIES
    }
    assert all(sum(row["figures"]["served"].values()) == pytest.approx(1.0) for row in results)
    assert all(row["decision_ms"] > 0 for row in results)
    assert content["about"]["capacity_per_second"] > 0
    assert "not measured" in printed
    assert "4 replicas at 0.8" in printed


def test_trace_is_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_trace(tmp_path / "trace.jsonl", Workload(templates=3, steps=4).draw(60, 1.0, seed=0))
    out = tmp_path / "out.json"
    arguments = ["--trace", str(tmp_path / "trace.jsonl"), "--policies", "finish_time", "--replicas", "2"]
    main([*arguments, "--loads", "0.3", "--host-share", "1", "--processes", "1", "--out", str(out)])
    (row,) = json.loads(out.read_text())["results"]
    assert row["figures"]["served"]["host"] + row["figures"]["served"]["full_mask"] == pytest.approx(1.0)
    assert "2 replicas" in capsys.readouterr().out


def test_unknown_policy_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--policies", "best"])
    assert "there is no policy 'best'" in capsys.readouterr().err


def test_targets_are_told_with_who_does_not_keep_up() -> None:
    runs = [a_run("finish_time", 5.0), a_run("least_requests", 10.0, per_second=0.5), a_run("compute_load", 6.0)]
    assert targets(runs) == [
        "8 replicas at 0.8: P95 50 % below least_requests, target 40 %: met; least_requests does not keep up",
        "8 replicas at 0.8: P95 17 % below compute_load, target 20 %: missed",
        "8 replicas: 0.50 ms a decision, target 1: met",
    ]


def test_simulating_needs_no_torch() -> None:
    code = "import sys, instgenie.sim.figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
