"""Training on scenes composited on the device: it learns, goes on where it stopped, and its export edits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from builtin_recipe.cases import held_out_cases
from builtin_recipe.concept_file import drawable
from builtin_recipe.concepts import CONCEPTS
from builtin_recipe.device_scenes import SceneBatch
from builtin_recipe.device_training import DeviceTrainer
from builtin_recipe.draws import Draws
from builtin_recipe.pictures import load_atlas
from builtin_recipe.recipes import DeviceRecipe
from builtin_recipe.run import WARM_UP_STEPS
from builtin_recipe.text_source import copy_text_encoder, load_encoder
from builtin_recipe.weight_shards import shard_weights
from instgenie.checkpoint import BUILTIN, load_checkpoint
from instgenie.editor import Editor
from instgenie_cache import MemoryStore

RECIPE = DeviceRecipe(
    latent_channels=8,
    double_blocks=1,
    single_blocks=1,
    heads=1,
    size=64,
    sizes=(64, 48),
    batch_tokens=8 * 72,
    text_tokens=8,
    atlas_side=32,
)
THINGS = [CONCEPTS[0], CONCEPTS[64], CONCEPTS[-1]]
pytestmark = [
    pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning"),  # autocast, RMSNorm
    pytest.mark.filterwarnings("ignore:.*low_cpu_mem_usage.*"),
]


class NotingTrainer(DeviceTrainer):
    """Notes the learning rates of its steps."""

    noted: tuple[float, ...] = ()

    def advance(self, share: float, rate: float) -> Tensor:
        self.noted += (rate,)
        return super().advance(share, rate)


def trainer(seed: int = 0) -> NotingTrainer:
    pictures = {THINGS[0].code: load_atlas()[THINGS[0].code]}
    return NotingTrainer(replace(RECIPE, seed=seed), THINGS, pictures, load_encoder(BUILTIN, RECIPE.text_tokens))


def ticking() -> Callable[[], float]:
    """A clock that every look at it moves by 3 s: a step takes 3 s, and 3 s are lost between steps."""
    seconds = 0.0

    def clock() -> float:
        nonlocal seconds
        seconds += 3
        return seconds

    return clock


def test_training_lowers_the_loss() -> None:
    run = trainer()
    losses = [float(run.train_step(rate=1.0)) for _ in range(60)]
    assert sum(losses[-10:]) < 0.85 * sum(losses[:10])


@pytest.mark.parametrize("dropout", [0.0, 0.5, 1.0])
def test_the_model_is_given_the_prompts_of_its_scenes(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer()
    run.recipe = replace(run.recipe, prompt_dropout=dropout, batch_tokens=32 * 72)
    drawn, given = list[SceneBatch](), list[dict[str, Tensor]]()
    draw = run.scenes.batch

    def noting(count: int, size: int, draws: Draws) -> SceneBatch:
        drawn.append(draw(count, size, draws))
        return drawn[-1]

    monkeypatch.setattr(run.scenes, "batch", noting)
    run.model.register_forward_pre_hook(lambda _, __, given_now: given.append(given_now), with_kwargs=True)
    run.train_step(rate=1.0)
    texts = [run.scenes.captions.texts[i] for i in drawn[0].caption.tolist()]
    assert len(set(texts)) > 8
    assert "" not in texts
    own, empty = run.encoder.encode(texts), run.encoder.encode([""])[0]
    dropped = 0
    for i, prompt in enumerate(own):
        states, pooled = (given[0][name][i] for name in ("encoder_hidden_states", "pooled_projections"))
        is_empty = torch.allclose(states, empty.states.float(), atol=0.02)
        expected = empty if is_empty else prompt
        assert torch.allclose(states, expected.states.float(), atol=0.02)
        assert torch.allclose(pooled, expected.pooled.float(), atol=0.02)
        dropped += is_empty
    assert dropped / len(own) == pytest.approx(dropout, abs=0.25 if 0 < dropout < 1 else 0)


def test_the_log_has_the_mean_loss_of_its_steps(capsys: pytest.CaptureFixture[str]) -> None:
    run, again = trainer(), trainer()
    run.report_every = 2
    run.run(60, None, steps=3, clock=ticking())
    rates = [(i + 1) / WARM_UP_STEPS for i in range(3)]
    losses = [float(again.train_step(rate)) for rate in rates]
    told = [line.split()[:4] for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert told == [
        ["step", "2", "loss", f"{(losses[0] + losses[1]) / 2:.4f}"],
        ["step", "3", "loss", f"{losses[2]:.4f}"],
    ]


def test_sizes_take_turns_in_batches_of_as_many_tokens() -> None:
    run = trainer()
    run.train_step(rate=1.0)
    assert run.samples == 8  # 64 image tokens and 8 of text
    run.train_step(rate=1.0)
    assert run.samples == 8 + RECIPE.batch_tokens // (36 + 8)


def test_two_pieces_make_the_run_that_was_never_stopped(tmp_path: Path) -> None:
    def piece(path: Path, until: float = float("inf")) -> NotingTrainer:
        run = trainer()
        run.shard_bytes = 1_000_000
        if path.exists():
            run.load(path)
        run.run(0.5, path, clock=ticking(), until=until)
        return run

    whole = piece(tmp_path / "whole")
    first = piece(tmp_path / "pieces", until=20)
    assert 0 < first.step < whole.step == 10
    second = piece(tmp_path / "pieces")
    assert (second.step, second.samples, second.seconds) == (whole.step, whole.samples, whole.seconds)
    assert first.noted + second.noted == whole.noted
    assert whole.noted[0] == 1 / WARM_UP_STEPS
    for a, b in zip(whole.average.parameters(), second.average.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_finished_run_leaves_its_checkpoint_as_it_is(tmp_path: Path) -> None:
    run = trainer()
    run.save_light(tmp_path / "light", 100_000)
    names = sorted(path.name for path in (tmp_path / "light").iterdir())
    run.run(0, tmp_path / "light")
    assert sorted(path.name for path in (tmp_path / "light").iterdir()) == names


def test_the_rate_warms_up_and_decays() -> None:
    run = trainer()
    assert run.rate(0.0) == 1 / WARM_UP_STEPS
    run.step = 1000
    assert run.rate(0.3) == 1
    assert run.rate(0.8) == pytest.approx(0.5)
    assert run.rate(1.0) == 0.01


def test_a_light_checkpoint_goes_on_after_another_warm_up(tmp_path: Path) -> None:
    run = trainer()
    run.train_step(rate=1.0)
    run.step, run.seconds = 500, 7.0
    run.save(tmp_path / "full")
    run.save_light(tmp_path / "light", 100_000)
    light_bytes = sum(path.stat().st_size for path in (tmp_path / "light").iterdir())
    assert light_bytes < 0.5 * (tmp_path / "full").stat().st_size
    again = trainer(seed=1)
    again.load(tmp_path / "light")
    assert (again.step, again.samples, again.seconds) == (500, run.samples, 7.0)
    assert again.rate(0.1) == 1 / WARM_UP_STEPS
    for a, b in zip(run.model.parameters(), again.model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0.01, atol=1e-6)
    for folder, exported in ((tmp_path / "a", run), (tmp_path / "b", again)):
        exported.export(folder)
    exports = [
        load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors") for folder in tmp_path.glob("?")
    ]
    assert all(torch.equal(exports[1][name], weight) for name, weight in exports[0].items())
    again.train_step(rate=1.0)
    assert again.rate(0.1) == 2 / WARM_UP_STEPS
    again.save(tmp_path / "second")
    again.load(tmp_path / "full")
    assert again.rate(0.1) == 1
    again.load(tmp_path / "second")  # goes on with the second warm-up
    assert (again.step, again.rate(0.1)) == (501, 2 / WARM_UP_STEPS)


def test_an_export_in_shards_loads_and_edits(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    copy_text_encoder(BUILTIN, folder)
    run = trainer()
    run.train_step(rate=1.0)
    for _ in range(2):  # over what an earlier piece wrote
        run.export(folder)
        shard_weights(folder, 200_000)
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 2
    checkpoint = load_checkpoint(folder, torch.float32, torch.device("cpu"))
    assert checkpoint.settings.canvas_tokens == (RECIPE.size // 8) ** 2
    assert checkpoint.takes_fill
    for name, weight in run.average.state_dict().items():
        assert torch.equal(checkpoint.forward.transformer.state_dict()[name], weight.bfloat16().float())
    concepts, pictures = drawable(folder, None)
    assert concepts == THINGS
    editor = Editor(checkpoint, MemoryStore(1 << 28))
    (case,) = held_out_cases("pictured", 1, RECIPE.size, pictures, concepts)
    request = case.request(steps=2)
    before, after = (np.asarray(picture) for picture in (request.picture, editor.edit(request).picture))
    assert np.array_equal(before[~request.mask], after[~request.mask])
    assert not np.array_equal(before[request.mask], after[request.mask])
