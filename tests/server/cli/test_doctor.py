"""`instgenie doctor`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.server.cli.conftest import Run


def test_json(run: Run, tiny_builtin: Path) -> None:
    result = run("doctor", "--json", "--model", tiny_builtin)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["ok"] is True
    assert {"instgenie", "torch", "diffusers"} <= set(report["versions"])
    assert report["threads"] >= 1
    assert any(device.startswith("cpu") for device in report["devices"])
    assert min(report["gflops"].values()) > 0
    assert report["dtype"] in report["gflops"]
    model = report["model"]
    assert model["name"] == "tiny-builtin"
    assert model["parameters"] > 1000
    assert len(model["revision"]) == 32
    assert model["dtype"] == report["dtype"] or model["dtype"] in report["gflops"]
    assert model["dense_step_ms"] > 0
    assert model["masked_step_ms"] > 0
    assert 0 < model["tokens_active"] < model["tokens_total"] == 64


def test_place_of_the_records(run: Run, tiny_builtin: Path, cache_home: Path) -> None:
    report = json.loads(run("doctor", "--json", "--model", tiny_builtin, "--dtype", "float32").stdout)["cache"]
    assert report["folder"] == str(cache_home / "instgenie" / "records")
    assert (report["stored_bytes"], report["service"]) == (0, False)
    assert report["budget_bytes"] > 0
    assert not cache_home.exists()


def test_table(run: Run, tiny_builtin: Path) -> None:
    result = run("doctor", "--model", tiny_builtin, "--dtype", "float32")
    assert result.exit_code == 0, result.output
    for word in ("torch", "GFLOP/s", "tiny-builtin", "masked step", "cache service"):
        assert word in result.stdout


def test_broken_model(run: Run, tmp_path: Path) -> None:
    result = run("doctor", "--json", "--model", tmp_path)
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["ok"] is False
    assert "model_index.json" in report["model"]["error"]


def test_broken_model_in_the_table(run: Run, tmp_path: Path) -> None:
    result = run("doctor", "--model", tmp_path / "gone")
    assert result.exit_code == 1
    assert "model is broken" in result.stdout
