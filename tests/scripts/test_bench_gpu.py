"""The GPU's benchmark, as a trial on the CPU: it times what it says, from where it says. Figures are the device's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import gpu, gpu_steps
from bench.gpu_ceilings import CALLS, ROUNDS, measure_ceilings
from bench.gpu_models import ARCHITECTURES, random_checkpoint, random_request
from bench.gpu_steps import StepBench, fewest_full_blocks, file_system, stall_share
from bench.speed_flops import pass_flops
from instgenie.batch_step import BatchOutcome
from instgenie.pipeline.planner import StepPlan

pytestmark = pytest.mark.usefixtures("one_thread")

TRIAL = ("--device", "cpu", "--model", "tiny")
CPU = torch.device("cpu")


@pytest.fixture
def trial(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs the script and gives what it wrote."""

    def run(*arguments: str) -> dict[str, Any]:
        gpu.main([*TRIAL, *arguments, "--out", str(tmp_path)])
        results: dict[str, Any] = json.loads((tmp_path / "gpu.json").read_text())["results"]
        return results

    return run


def test_rows_of_all_sources(trial: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_steps, "file_system", lambda _: "ext4")  # the tests' folder may well be in memory
    monkeypatch.setattr(gpu, "LOADED_BATCHES", (1, 2))
    results = trial("--only", "ceilings,steps,loads", "--batches", "1", "2")
    assert all(value > 0 for value in results["ceilings"].values())
    assert (results["is_whole"], results["failed"]) == (True, {})
    assert results["costs_r_squared"] <= 1
    rows, policies = results["steps"], gpu.POLICIES
    found = [(row["system"], row["source"], row["policy"], row["batch"]) for row in rows]
    assert found == [
        ("diffusers", None, None, 1),
        ("ours, dense", None, None, 1),
        ("diffusers", None, None, 2),
        ("ours, dense", None, None, 2),
        *len(gpu.SHARES) * [("ours", "device", None, 1), ("ours", "device", None, 2)],
        *len(gpu.SHARES) * [("ours", "host", policy, batch) for batch in (1, 2) for policy in policies],
        *len(gpu.DISK_SHARES) * [("ours", "disk", policy, 1) for policy in policies],
    ]
    actives = [row["active"] for row in rows if row["source"] == "device" and row["batch"] == 1]
    assert actives == [4 / 64, 9 / 64, 16 / 64, 25 / 64, 36 / 64]
    assert {row["active"] for row in rows if row["source"] is None} == {1.0}
    config = random_checkpoint("tiny", torch.bfloat16, CPU, 2).forward.transformer.config
    for row in rows:
        ms = row["ms"]["median"]
        flops = row["batch"] * pass_flops(config, 4, round(64 * row["active"]), 64)
        assert row["tflops"] * 1e12 * ms / 1000 == pytest.approx(flops)
        assert row["ms"]["n"] == gpu.STEPS - 1
        loaded = 0.0
        if row["source"] in ("host", "disk"):  # K and V of 64 tokens, 2 heads, 32 numbers of 2 bytes
            loaded = (3 - row["full_blocks"]) * 2 * 64 * 2 * 32 * 2 / (ms / 1000) / 1e9
        assert row["loaded_gb_per_second"] == pytest.approx(loaded, rel=0.2)  # records are padded


def test_without_time_the_rest_is_left_out(
    trial: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    results = trial("--only", "ceilings,steps", "--minutes", "0.000001")
    assert (results["steps"], results["is_whole"]) == ([], False)
    assert results["ceilings"] is not None
    assert "there was no time for the rest" in capsys.readouterr().err


def test_rows_that_fail_are_told_and_the_others_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise torch.OutOfMemoryError("of memory there is none")

    monkeypatch.setattr(StepBench, "_diffusers", fails)
    with pytest.raises(SystemExit, match="1"):
        gpu.main([*TRIAL, "--only", "steps", "--batches", "1", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert [row["system"] for row in results["steps"]] == ["ours, dense", *len(gpu.SHARES) * ["ours"]]
    failure = "OutOfMemoryError: of memory there is none"
    assert results["failed"] == {"diffusers, batch of 1, 100% masked": failure}
    assert f"failed: diffusers, batch of 1, 100% masked: {failure}" in capsys.readouterr().err


def test_records_that_are_lost_are_not_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StepBench, "_record", lambda *_: None)  # so the first edit makes them, and others find them
    with pytest.raises(SystemExit, match="1"):
        gpu.main([*TRIAL, "--only", "steps", "--batches", "1", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert (
        "records and dense steps were (None, 0), not ('device', 0)"
        in results["failed"]["ours, records on device, batch of 1, 5% masked"]
    )


def test_a_disk_that_is_memory_is_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trial: Callable[..., dict[str, Any]]
) -> None:
    monkeypatch.setattr(gpu_steps, "file_system", lambda _: "tmpfs")
    with pytest.raises(SystemExit, match="1"):
        trial("--only", "loads", "--batches", "1")
    results = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert {row["source"] for row in results["steps"]} == {"host"}
    assert len(results["failed"]) == len(gpu.DISK_SHARES) * len(gpu.POLICIES)
    assert all("is in memory (tmpfs)" in error for error in results["failed"].values())
    assert file_system(Path("/proc")) == "proc"


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--only", "steps,everything"), "everything: the parts are ceilings, steps, loads, compiled"),
        (("--batches", "0"), "0 is less than 1"),
    ],
)
def test_what_cannot_be_asked_for(arguments: tuple[str, ...], fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(list(arguments))
    assert fault in capsys.readouterr().err


def test_a_ceiling_is_what_was_done_in_the_time() -> None:
    now = iter(range(1000))  # each look at the clock is a second later
    found = measure_ceilings(CPU, torch.float32, side=10, copied=4_000_000, clock=lambda: float(next(now)))
    assert found.matmul_tflops == pytest.approx(CALLS * 2 * 10**3 / 1e12)
    assert found.copy_gb_per_second == found.load_gb_per_second == pytest.approx(CALLS * 0.004)
    assert next(now) < 3 * 2 * (ROUNDS + 4)


def test_edits_that_share_records_wait_together() -> None:
    """A batch's stall is that of the edit that waits first; the plan that loads most is what was loaded."""
    outcomes = [BatchOutcome(10.0, 4.0, frozenset()), BatchOutcome(30.0, 6.0, frozenset())]
    assert stall_share(outcomes) == 0.25
    assert fewest_full_blocks([StepPlan(3, 1.0, 0.0), StepPlan(1, 1.0, 0.0)]) == 1
    assert fewest_full_blocks([StepPlan(3, 1.0, 0.0), None]) == 0


def test_the_flux_is_the_known_one() -> None:
    """12 billion parameters: those of the published configuration."""
    of = ARCHITECTURES["flux"]
    assert (of.double_blocks, of.single_blocks, of.heads * of.head_dim, sum(of.rope)) == (19, 38, 3072, of.head_dim)
    assert (of.side * of.patch, of.side**2, of.text_tokens) == (1024, 4096, 512)
    checkpoint = random_checkpoint("flux", torch.bfloat16, torch.device("meta"), 2)
    assert round(sum(p.numel() for p in checkpoint.forward.transformer.parameters()) / 1e9, 1) == 11.9
    (prompt,) = checkpoint.prompts.encode(["a prompt"])
    assert prompt.states.device == prompt.pooled.device == checkpoint.forward.device


def test_a_request_masks_what_it_says() -> None:
    request = random_request("tiny", 0.25, 3)
    assert (request.mask.mean(), request.picture.size, request.prompt) == (0.25, (64, 64), "edit 3")
    assert (request.halo, request.refreshes) == (0, 0)


@pytest.mark.gpu
def test_all_parts_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_steps, "file_system", lambda _: "ext4")
    gpu.main(["--device", "cuda", "--model", "tiny", "--batches", "1", "4", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert (results["is_whole"], results["failed"]) == (True, {})
    assert {row["source"] for row in results["steps"]} == {None, "device", "host", "disk"}
    assert "ours, compiled" in {row["system"] for row in results["steps"]}
