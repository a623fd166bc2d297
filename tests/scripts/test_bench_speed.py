"""Operations are counted exactly, lines cross where they do; times are not tested."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench import speed
from bench.engine import TEXT_DIM, TEXT_TOKENS, square_positions
from bench.harness import Spread
from bench.speed import DENSE, DIFFUSERS, SKIP, USUAL, StepRow, crossings, extrapolated, mask_at, masked
from bench.speed_flops import pass_flops
from bench.speed_steps import Steps, skipped_step
from tests.scripts.small_flux import small_flux

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 6


@pytest.fixture(scope="module")
def steps() -> Steps:
    return Steps(small_flux(), SIDE)


def counted(work: Callable[[], object]) -> int:
    """Operations of the matrix products that were made."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    flops: int = counter.get_total_flops()
    return flops


def test_operations_are_those_that_are_made(steps: Steps) -> None:
    config = steps.forward.transformer.config
    active = square_positions(SIDE, 0.2)
    tokens = SIDE**2
    assert counted(lambda: steps.dense(1)) == pass_flops(config, TEXT_TOKENS, tokens, tokens)
    assert counted(lambda: steps.diffusers(1)) == pass_flops(config, TEXT_TOKENS, tokens, tokens)
    assert counted(lambda: steps.masked(active, 1)) == pass_flops(config, TEXT_TOKENS, len(active), tokens)


def test_operations_of_distilled_guidance_are_counted() -> None:
    torch.manual_seed(0)
    given = dict(small_flux().config) | {"guidance_embeds": True}
    model = FluxTransformer2DModel(**{name: given[name] for name in given if not name.startswith("_")})
    inputs = {
        "hidden_states": torch.randn(1, 9, 64),
        "encoder_hidden_states": torch.randn(1, 4, TEXT_DIM),
        "pooled_projections": torch.randn(1, TEXT_DIM),
        "timestep": torch.tensor([0.5]),
        "guidance": torch.tensor([3.0]),
        "img_ids": torch.zeros(9, 3),
        "txt_ids": torch.zeros(4, 3),
    }
    with torch.no_grad():
        assert counted(lambda: model(**inputs)) == pass_flops(model.config, 4, 9, 9)


def test_what_is_timed_is_the_same_step(steps: Steps) -> None:
    dense = steps.dense(2)
    diffusers = steps.diffusers(2)
    masked_step = steps.masked(square_positions(SIDE, 0.2), 2)
    for mine, theirs, part in zip(dense, diffusers, masked_step, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
        assert torch.allclose(part, mine[square_positions(SIDE, 0.2)], atol=1e-5)


def test_a_skipped_step_computes_the_first_block_alone_and_the_cache_goes(steps: Steps) -> None:
    config = steps.forward.transformer.config
    tokens = SIDE**2
    whole = pass_flops(config, TEXT_TOKENS, tokens, tokens)
    with skipped_step(steps, 1) as step:
        in_skipped = counted(step)
        assert counted(step) == in_skipped  # however often
    assert 0 < in_skipped < whole / 3
    assert counted(lambda: steps.diffusers(1)) == whole


def test_an_extrapolated_step_computes_nothing_of_the_model(steps: Steps) -> None:
    active = square_positions(SIDE, 0.2)
    assert steps.extrapolated(active, 3) == 3
    assert counted(lambda: steps.extrapolated(active, 3)) == 0
    assert steps.extrapolated(active, 1) == 1  # as often as it is asked for


def a_line(speedups: dict[str, float], batch: int = 1) -> list[StepRow]:
    shares = {DENSE: 1.0, DIFFUSERS: 1.0, SKIP: 1.0}
    return [
        StepRow(name, batch, shares.get(name, 0.1 if "11%" in name else 0.5), Spread(1, 1, 1), speedup, 1.0)
        for name, speedup in speedups.items()
    ]


def test_lines_cross_where_both_take_as_long() -> None:
    speedups = {DIFFUSERS: 1.0, DENSE: 1.0, masked(USUAL): 5.0, masked(0.5): 2.0, SKIP: 10.0, extrapolated(USUAL): 50.0}
    found = {row.skipped: row for row in crossings(a_line(speedups, batch=4))}
    half = found[0.5]
    assert half.batch == 4
    assert half.speedup == pytest.approx(1 / 0.55)  # half of the steps take 0.1
    assert half.crossing == pytest.approx(0.5 + 0.5 * (0.55 - 0.5) / 0.5)
    assert half.masked == pytest.approx(5)
    assert half.both == pytest.approx(1 / (0.5 * 0.2 + 0.5 * 0.02))
    assert found[0.25].crossing > half.crossing > found[0.75].crossing


def test_outside_the_line_there_is_no_crossing() -> None:
    line = [(0.05, 0.2), (0.5, 0.5), (1.0, 1.02)]
    assert mask_at(line, 0.1) == 0
    assert mask_at(line, 0.2) == 0.05
    assert mask_at(line, 0.35) == pytest.approx(0.275)
    assert mask_at(line, 2) == 1


def test_one_run_prints_two_tables_and_writes_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speed, "medium_flux", small_flux)
    given = ["--minutes", "0.001", "--side", "8", "--dtype", "float32", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["speed.py", *given])
    speed.main()
    printed = capsys.readouterr().out
    assert "a step of the medium Flux" in printed
    assert "crossing" in printed
    content = json.loads((tmp_path / "speed.json").read_text())
    rows = content["results"]["steps"]
    assert {row["batch"] for row in rows} == set(speed.BATCHES)
    by_name = {row["step"]: row for row in rows if row["batch"] == 1}
    assert by_name[DIFFUSERS]["speedup"] == by_name[DIFFUSERS]["ideal"] == 1
    assert by_name[SKIP]["ideal"] is None
    assert by_name[masked(0.5)]["ideal"] < by_name[masked(USUAL)]["ideal"]
    assert len(content["results"]["crossings"]) == len(speed.BATCHES) * len(speed.SKIPPED)
    assert "first-block cache" in (tmp_path / "speed.svg").read_text()
