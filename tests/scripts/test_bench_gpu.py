"""The GPU's benchmark, as a trial on the CPU: it times what it says, from where it says. Figures are the device's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench import gpu
from bench.gpu_ceilings import measure_ceilings
from bench.gpu_models import ARCHITECTURES, random_checkpoint, random_request
from bench.speed_flops import pass_flops

pytestmark = pytest.mark.usefixtures("one_thread")

TRIAL = ["--device", "cpu", "--model", "tiny"]


def test_rows_of_all_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main([*TRIAL, "--only", "ceilings,steps,loads", "--batches", "1", "2", "--out", str(tmp_path)])
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert all(value > 0 for value in written["results"]["ceilings"].values())
    assert written["about"]["whole"]
    rows = written["results"]["steps"]
    found = [(row["system"], row["source"], row["policy"], row["batch"]) for row in rows]
    shares, policies = len(gpu.SHARES), gpu.POLICIES
    assert found == [
        ("diffusers", None, None, 1),
        ("ours, dense", None, None, 1),
        ("diffusers", None, None, 2),
        ("ours, dense", None, None, 2),
        *shares * [("ours", "device", None, 1), ("ours", "device", None, 2)],
        *shares * [("ours", "host", policy, 1) for policy in policies],
        *shares * [("ours", "disk", policy, 1) for policy in policies],
    ]
    actives = [row["active"] for row in rows if row["source"] == "device" and row["batch"] == 1]
    assert actives == [4 / 64, 9 / 64, 16 / 64, 25 / 64, 36 / 64]
    assert {row["active"] for row in rows if row["source"] is None} == {1.0}
    for row in rows:
        assert row["ms"]["n"] == gpu.STEPS - 1
        assert row["tflops"] > 0
        assert (row["loaded_gb_per_second"] > 0) == (row["source"] in ("host", "disk") and row["full_blocks"] < 3)
    assert "page-locked" not in capsys.readouterr().err


def test_operations_are_the_batch_s(tmp_path: Path) -> None:
    gpu.main([*TRIAL, "--only", "steps", "--batches", "2", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "gpu.json").read_text())["results"]["steps"]
    config = random_checkpoint("tiny", torch.bfloat16, torch.device("cpu"), 2).forward.transformer.config
    for row in rows:
        flops = 2 * pass_flops(config, 4, round(64 * row["active"]), 64)
        assert row["tflops"] * 1e12 * row["ms"]["median"] / 1000 == pytest.approx(flops)


def test_without_time_the_rest_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main([*TRIAL, "--only", "steps", "--minutes", "0.000001", "--out", str(tmp_path)])
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert (len(written["results"]["steps"]), written["about"]["whole"]) == (1, False)
    assert "there was no time for the rest" in capsys.readouterr().err


def test_parts_that_are_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--only", "steps,everything"])
    assert "everything: the parts are ceilings, steps, loads, compiled" in capsys.readouterr().err


def test_a_ceiling_is_what_was_done_in_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.gpu_ceilings.timed_ms", lambda work: (work(), 2.0)[1])
    found = measure_ceilings(torch.device("cpu"), torch.float32, side=10, copied=4_000_000)
    assert found.matmul_tflops == pytest.approx(2 * 10**3 / 0.002 / 1e12)
    assert found.copy_gb_per_second == found.load_gb_per_second == pytest.approx(2.0)


def test_the_flux_is_the_known_one() -> None:
    """12 billion parameters: those of the published configuration."""
    of = ARCHITECTURES["flux"]
    assert (of.double_blocks, of.single_blocks, of.heads * of.head_dim, sum(of.rope)) == (19, 38, 3072, of.head_dim)
    assert (of.side * of.patch, of.side**2, of.text_tokens) == (1024, 4096, 512)
    with torch.device("meta"):
        checkpoint = random_checkpoint("flux", torch.bfloat16, torch.device("meta"), 2)
    assert round(sum(p.numel() for p in checkpoint.forward.transformer.parameters()) / 1e9, 1) == 11.9


def test_a_request_masks_what_it_says() -> None:
    request = random_request("tiny", 0.25, 3)
    assert (request.mask.mean(), request.picture.size, request.prompt) == (0.25, (64, 64), "edit 3")
    assert (request.halo, request.refreshes) == (0, 0)
