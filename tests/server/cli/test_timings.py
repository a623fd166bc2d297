"""What `--timings` and `--compare` say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from instgenie.request import EditTimings
from instgenie_server.cli.edit_report import summary
from tests.server.cli.conftest import Run

TIMES = ("encode_ms", "record_ms", "denoise_ms", "decode_ms", "step_ms_median", "load_ms")


def report(result: Result) -> dict[str, Any]:
    """The one JSON object on stdout."""
    assert result.exit_code == 0, result.output
    parsed: dict[str, Any] = json.loads(result.stdout, parse_constant=refuse)
    return parsed


def refuse(word: str) -> None:
    """Strict JSON knows neither NaN nor Infinity."""
    raise AssertionError(word)


def test_cached_edit(edit: Run, image_path: Path, mask_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    result = edit(image_path, "--mask", mask_path, "-o", out, "--timings", "--seed", "3", "--cache", "on")
    timings = report(result)
    assert all(timings[name] > 0 for name in TIMES)
    assert timings["steps"] == 4
    assert timings["dense_steps"] == 0
    assert 0 < timings["tokens_active"] < timings["tokens_total"]
    assert (timings["cache"], timings["dtype"], timings["model"]) == ("cold", "float32", "tiny-builtin")
    assert timings["seed"] == 3
    left, top, width, height = timings["window"]
    assert 0 <= left <= 40 < 70 <= left + width <= 130
    assert 0 <= top <= 30 < 50 <= top + height <= 90
    assert timings["canvas"][0] * timings["canvas"][1] == 64 * timings["tokens_total"]
    assert "speedup" not in timings
    assert f"{timings['tokens_active']} of {timings['tokens_total']} in a masked step" in result.stderr


def test_dense_edit(edit: Run, image_path: Path, mask_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    timings = report(edit(image_path, "--mask", mask_path, "-o", out, "--timings", "--cache", "off", "--steps", "2"))
    assert timings["cache"] == "off"
    assert timings["record_ms"] == 0
    assert timings["steps"] == timings["dense_steps"] == 2
    assert timings["tokens_active"] == timings["tokens_total"]


@pytest.mark.parametrize(("halo", "cache"), [("0", "cold"), ("2", "off")])
def test_cache_is_used_where_it_pays(
    edit: Run, image_path: Path, mask_path: Path, tmp_path: Path, halo: str, cache: str
) -> None:
    """With two guidance passes: below half of the tokens."""
    timings = report(edit(image_path, "--mask", mask_path, "-o", tmp_path / "out.png", "--timings", "--halo", halo))
    assert timings["cache"] == cache


def test_strength_runs_a_share_of_the_steps(edit: Run, image_path: Path, mask_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    assert report(edit(image_path, "--mask", mask_path, "-o", out, "--timings", "--strength", "0.5"))["steps"] == 2


def test_compare(edit: Run, image_path: Path, mask_path: Path, tmp_path: Path) -> None:
    result = edit(image_path, "--mask", mask_path, "-o", tmp_path / "out.png", "--timings", "--compare")
    timings = report(result)
    assert timings["cache"] == "cold"
    assert timings["dense_ms"] > 0
    assert timings["speedup"] == pytest.approx(timings["dense_ms"] / timings["cached_ms"], rel=1e-3, abs=0.01)
    assert timings["psnr_in_mask_db"] > 0
    assert "times as fast as dense" in result.stderr


def test_compare_with_everything_masked(edit: Run, image_path: Path, tmp_path: Path) -> None:
    """All tokens are computed either way: the pictures are the same, and infinity is no JSON."""
    result = edit(
        image_path, "--mask", image_path, "--halo", "64", "-o", tmp_path / "out.png", "--timings", "--compare"
    )
    timings = report(result)
    assert timings["tokens_active"] == timings["tokens_total"]
    assert timings["psnr_in_mask_db"] is None
    assert "identical under the mask" in result.stderr


@pytest.mark.parametrize(
    ("timings", "told"),
    [
        # Ten steps of 20 of 100 tokens, one of all, nine extrapolated.
        (
            EditTimings(step_ms=[1.0] * 11, dense_steps=1, extrapolated_steps=9, tokens_active=20, tokens_total=100),
            "15% of a dense edit's tokens computed, 20 of 100 in a masked step",
        ),
        (
            EditTimings(step_ms=[1.0] * 4, dense_steps=4, tokens_active=100, tokens_total=100),
            "100% of a dense edit's tokens computed",
        ),
    ],
)
def test_summary_tells_the_share_over_all_steps(timings: EditTimings, told: str) -> None:
    assert summary(Path("out.png"), 1.0, timings) == f"wrote out.png in 1.0 s: {told}"


def test_summary_tells_where_records_were_and_what_was_chosen() -> None:
    timings = EditTimings(step_ms=[1.0], tokens_active=20, tokens_total=100, cache="hit", tier="host")
    told = "wrote out.png in 1.0 s: 20% of a dense edit's tokens computed, 20 of 100 in a masked step"
    told += ", the picture's records came from memory"
    chosen = {"dense": False, "halo": 1, "refreshes": 3, "step_cache": 2}
    line = summary(Path("out.png"), 1.0, timings, chosen=chosen)
    assert line == f"{told}; --fidelity chose halo 1, refreshes 3, step-cache 2"
    assert summary(Path("out.png"), 1.0, timings, chosen={"dense": True}) == f"{told}; --fidelity chose all tokens"
