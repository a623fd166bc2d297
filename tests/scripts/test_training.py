"""Training of the embedded model: a step lowers the loss, a run resumes, an export loads as a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from builtin_recipe.concepts import CONCEPTS
from builtin_recipe.pictures import load_atlas
from builtin_recipe.recipes import PATCH, Recipe
from builtin_recipe.text_source import copy_text_encoder, load_encoder
from builtin_recipe.training import Trainer
from instgenie.checkpoint import BUILTIN, load_checkpoint
from instgenie.model_settings import read_settings

RECIPE = Recipe(
    latent_channels=8,
    double_blocks=1,
    single_blocks=1,
    heads=1,
    size=96,
    windows=(4, 6),
    batch_tokens=256,
    text_tokens=4,
)


ENCODER = load_encoder(BUILTIN, RECIPE.text_tokens)


def trainer(seed: int = 0, *, compiled: bool = False) -> Trainer:
    return Trainer(replace(RECIPE, seed=seed), load_atlas(), ENCODER, compiled=compiled)


def test_prompts_are_those_of_the_served_text_encoder() -> None:
    run, apple = trainer(), CONCEPTS[0]
    for text in ("", "a small red apple", apple.names[1]):
        (served,) = ENCODER.encode([text])
        states, pooled = run.prompt(text, apple)
        assert torch.allclose(states.float(), served.states, atol=0.02, rtol=0.02)
        assert torch.allclose(pooled.float(), served.pooled, atol=0.02, rtol=0.02)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")
def test_a_compiled_step_is_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated as by --compile, but run without the minute that C++ takes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    losses = [float(trainer(compiled=compiled).train_step(whole=False, rate=1.0)) for compiled in (False, True)]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")  # autocast, RMSNorm
def test_training_lowers_the_loss() -> None:
    run = trainer()
    losses = [float(run.train_step(whole=False, rate=1.0)) for _ in range(120)]
    assert sum(losses[-15:]) < 0.93 * sum(losses[:15])


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")
def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    first = trainer()
    first.train_step(whole=False, rate=1.0)
    first.seconds = 1.5
    first.save(tmp_path / "run.pt")
    second = trainer(seed=1)
    second.load(tmp_path / "run.pt")
    assert (second.step, second.samples, second.seconds) == (1, first.samples, 1.5)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.isfinite(second.train_step(whole=True, rate=1.0))


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")
@pytest.mark.filterwarnings("ignore:.*low_cpu_mem_usage.*")
def test_a_run_starts_from_what_another_one_exported(tmp_path: Path) -> None:
    first = trainer()
    first.train_step(whole=False, rate=1.0)
    first.seconds = 90.0
    first.export(tmp_path)
    second = trainer(seed=1)
    second.start_from(tmp_path)
    assert (second.step, second.samples, second.earlier_samples) == (1, first.samples, first.samples)
    assert (second.seconds, second.earlier_minutes) == (0, 1.5)
    assert second.rate(0.0) == 0.01  # warms up
    for trained, model, average in zip(
        first.average.parameters(), second.model.parameters(), second.average.parameters(), strict=True
    ):
        assert torch.equal(trained.bfloat16(), model.bfloat16())
        assert torch.equal(model, average)
    for a, b in zip(first.autoencoder.parameters(), second.autoencoder.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.isfinite(second.train_step(whole=False, rate=1.0))
    second.seconds = 30.0
    second.save(tmp_path / "run.pt")
    third = trainer()
    third.load(tmp_path / "run.pt")
    assert third.samples > third.earlier_samples == first.samples
    third.export(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "training.json").read_text())["minutes"] == 2
    assert read_settings(tmp_path / "model", takes_fill=True, distilled=False).draws[0] == "red apple"


@pytest.mark.filterwarnings("ignore:.*low_cpu_mem_usage.*")
def test_a_run_does_not_start_from_another_architecture(tmp_path: Path) -> None:
    trainer().export(tmp_path)
    other = Trainer(replace(RECIPE, single_blocks=2), load_atlas(), ENCODER)
    with pytest.raises(ValueError, match="num_single_layers: 1, but the recipe's 2"):
        other.start_from(tmp_path)


@pytest.mark.filterwarnings("ignore:.*low_cpu_mem_usage.*")
def test_a_run_does_not_start_from_half_a_model(tmp_path: Path) -> None:
    trainer().export(tmp_path)
    weights = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    kept = load_file(weights)
    kept.pop("x_embedder.weight")
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="weights are missing or too many: x_embedder"):
        trainer().start_from(tmp_path)
    with pytest.raises(OSError, match="nowhere"):
        trainer().start_from(tmp_path / "nowhere")


def test_a_batch_computes_its_window_and_some_tokens_round_it() -> None:
    run = trainer()
    across = RECIPE.size // PATCH
    for _ in range(20):
        place, tokens = run.window(whole=False)
        side = place.side // PATCH
        assert RECIPE.windows[0] <= side <= RECIPE.windows[1]
        assert place.left % PATCH == place.top % PATCH == 0
        rows, columns = tokens // across, tokens % across
        top, left = place.top // PATCH, place.left // PATCH
        inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
        assert int(inside.sum()) == side * side
        assert int((~inside).sum()) == int(RECIPE.context * side * side)
        assert tokens.tolist() == sorted(set(tokens.tolist()))
    place, tokens = run.window(whole=True)
    assert (place.side, len(tokens)) == (RECIPE.size, across * across)


def test_a_finished_run_does_not_train_on(tmp_path: Path) -> None:
    run = trainer()
    run.seconds = 61.0
    run.run(minutes=1.0, checkpoint=tmp_path / "run.pt")
    assert run.step == 0
    assert not (tmp_path / "run.pt").exists()  # there is nothing to go on from


def test_a_longer_run_warms_up_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its schedule would leap from the end of the decay to the full rate."""
    first = trainer()
    first.run(minutes=60, checkpoint=tmp_path / "run.pt", steps=1)
    second = trainer()
    second.load(tmp_path / "run.pt")
    second.step = 5000
    second.run(minutes=60, checkpoint=None, steps=0)
    assert second.rate(0.0) == 1
    second.run(minutes=90, checkpoint=None, steps=0)
    assert second.rate(0.0) == 0.01
    assert "a run of 60 minutes becomes one of 90" in capsys.readouterr().out


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    trainer().save(tmp_path / "run.pt")
    with pytest.raises(ValueError, match="num_single_layers: 1, but the recipe's 2"):
        Trainer(replace(RECIPE, single_blocks=2), load_atlas(), ENCODER).load(tmp_path / "run.pt")
    other = trainer()
    other.concepts = CONCEPTS[:4]
    with pytest.raises(ValueError, match=r"concepts: 145 \(red apple, .* but the recipe's 4 \(red apple"):
        other.load(tmp_path / "run.pt")


def test_pieces_draw_scenes_of_their_own(tmp_path: Path) -> None:
    """By the recipe's seed and the step, so that a piece repeats neither another one's scenes nor another run's."""
    first = trainer()
    first.save(tmp_path / "0.pt")
    first.step = 7
    first.save(tmp_path / "7.pt")

    def drawn(seed: int, path: Path) -> bytes:
        run = trainer(seed)
        run.load(path)
        return run.scene(96).target.tobytes()

    scenes = [drawn(seed, tmp_path / f"{step}.pt") for seed in (0, 1) for step in (0, 7)]
    assert len(set(scenes)) == 4
    assert scenes[0] == drawn(0, tmp_path / "0.pt")


def test_a_text_encoder_that_is_not_there_replaces_none(tmp_path: Path) -> None:
    copy_text_encoder(BUILTIN, tmp_path / "model")
    with pytest.raises(FileNotFoundError, match="nowhere: there is no text_encoder/ and tokenizer/ in it"):
        copy_text_encoder(tmp_path / "nowhere", tmp_path / "model")
    assert load_encoder(tmp_path / "model", 4).encode(["a cat"])


@pytest.mark.filterwarnings("ignore:.*low_cpu_mem_usage.*")
def test_an_export_loads_as_a_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    copy_text_encoder(BUILTIN, folder)
    trainer().export(folder)
    checkpoint = load_checkpoint(folder, torch.float32, torch.device("cpu"))
    assert checkpoint.takes_fill
    assert checkpoint.settings.canvas_tokens == (96 // 8) ** 2
    assert checkpoint.forward.num_blocks == 2
