"""The benchmark of the pipeline, on a tiny model: its books are right, its files are complete; times are not tested."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench import pipeline, pipeline_execution, pipeline_records
from bench.pipeline_execution import SHARES
from instgenie.checkpoint import load_checkpoint
from instgenie.pipeline.policies import PLAN_POLICIES
from instgenie.request import EditRequest

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def request_of_64() -> EditRequest:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    mask = np.zeros((64, 64), bool)
    mask[16:40, 16:40] = True
    return EditRequest(picture=picture, mask=mask, prompt="a pear")


def test_every_policy_is_run_at_every_bandwidth_from_the_disk(
    tiny_builtin: Path, request_of_64: EditRequest, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(tiny_builtin, torch.float32, torch.device("cpu"))
    rows = pipeline_execution.measure(checkpoint, request_of_64, tmp_path, rounds=1)
    assert [(row.load_share, row.policy) for row in rows] == [
        (share, policy) for share in SHARES for policy in PLAN_POLICIES
    ]
    blocks = checkpoint.forward.num_blocks
    assert {row.full_blocks for row in rows if row.policy == "dense"} == {blocks}
    assert {row.full_blocks for row in rows if row.policy == "always_cached"} == {0}
    assert all(row.step_ms > 0 and row.stall_share >= 0 for row in rows)
    assert all(row.stall_share == 0 for row in rows if row.policy == "dense")
    slow = {row.policy: row for row in rows if row.load_share == SHARES[-1]}
    assert slow["always_cached"].stall_share > 0  # a step's records take two dense steps; how much is the machine's
    pipeline_execution.plot(rows, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().count("full_prefix") == 1


def test_ways_of_recording_are_measured_against_raw_records_of_every_step(
    tiny_builtin: Path, request_of_64: EditRequest
) -> None:
    checkpoint = load_checkpoint(tiny_builtin, torch.float32, torch.device("cpu"))
    rows = {(row.codec, row.drift): row for row in pipeline_records.measure(checkpoint, [request_of_64])}
    reference = rows["raw", 0.0]
    assert (reference.smaller, reference.psnr_db) == (1, 99)
    assert reference.ssim == pytest.approx(1)
    assert rows["int8", 0.0].smaller > 3  # than float32
    for row in rows.values():
        assert row.smaller == pytest.approx(reference.template_bytes / row.template_bytes)
        assert -1 <= row.ssim <= 1
        assert row.worst_psnr_db <= row.psnr_db


def test_ssim_is_that_of_the_definition() -> None:
    draw = np.random.default_rng(0)
    one = draw.random((12, 12, 3)).astype(np.float32)
    other = (0.5 * one + 0.1 * draw.random((12, 12, 3))).astype(np.float32)
    mask = np.zeros((12, 12), np.float32)
    mask[5, 6] = 1
    expected = []
    for channel in range(3):
        a, b = one[2:9, 3:10, channel].astype(float), other[2:9, 3:10, channel].astype(float)
        covariance = ((a - a.mean()) * (b - b.mean())).mean()
        top = (2 * a.mean() * b.mean() + 1e-4) * (2 * covariance + 9e-4)
        expected.append(top / ((a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (a.var() + b.var() + 9e-4)))
    assert pipeline_records.ssim_in_mask(one, other, mask) == pytest.approx(np.mean(expected), rel=1e-5)
    assert pipeline_records.ssim_in_mask(one, one, mask) == pytest.approx(1)


def test_one_run_prints_three_tables_and_writes_what_was_measured(
    tiny_builtin: Path,
    request_of_64: EditRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Masks of held-out cases cover all of so small a canvas.
    monkeypatch.setattr(pipeline_records, "requests_of", lambda *_: [request_of_64])
    arguments = ["--rounds", "1", "--edits", "1", "--model", str(tiny_builtin), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["pipeline.py", *arguments])
    pipeline.main()
    printed = capsys.readouterr().out
    for title in ("over the optimum", "plans as they are run", "records by codec and drift"):
        assert title in printed
    content = json.loads((tmp_path / "out" / "pipeline.json").read_text())
    assert {"environment", "simulated", "executed", "recorded"} == content.keys()
    assert len(content["executed"]) == len(SHARES) * len(PLAN_POLICIES)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "pipeline.json",
        "pipeline_execution.svg",
        "pipeline_simulation.svg",
    }
