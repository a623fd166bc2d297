"""On a CUDA device: scenes, steps, checkpoints and an export of the run that composites there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from builtin_recipe.cases import held_out_cases
from builtin_recipe.concept_file import drawable
from builtin_recipe.concepts import CONCEPTS
from builtin_recipe.device_training import DeviceTrainer
from builtin_recipe.draws import Draws
from builtin_recipe.pictures import load_atlas
from builtin_recipe.recipes import DeviceRecipe
from builtin_recipe.text_source import copy_text_encoder, load_encoder
from instgenie.checkpoint import BUILTIN, load_checkpoint
from instgenie.editor import Editor
from instgenie_cache import MemoryStore

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning"),  # autocast, RMSNorm
    pytest.mark.filterwarnings("ignore:.*low_cpu_mem_usage.*"),
]

CUDA = "cuda"
RECIPE = replace(DeviceRecipe(), double_blocks=1, single_blocks=1, heads=1, batch_tokens=8 * 1040, atlas_side=96)


def trainer(seed: int = 0) -> DeviceTrainer:
    encoder = load_encoder(BUILTIN, RECIPE.text_tokens)
    return DeviceTrainer(replace(RECIPE, seed=seed), CONCEPTS, load_atlas(), encoder, CUDA)


def test_a_run_draws_trains_goes_on_and_exports_there(tmp_path: Path) -> None:
    run = trainer()
    for size in set(RECIPE.sizes):
        scenes = run.scenes.batch(64, size, Draws(torch.Generator(CUDA).manual_seed(1)))
        assert scenes.target.device.type == CUDA
        assert scenes.target.shape == (64, 3, size, size)
        assert ((scenes.target >= 0) & (scenes.target <= 1 + 1e-5)).all()
        assert not ((scenes.target - scenes.background).abs() * (1 - scenes.mask)).any()
        drawn = (scenes.alpha.sum((1, 2, 3)) > 0).tolist()
        assert drawn == [CONCEPTS[i].kind != "nothing" for i in scenes.concept.tolist()]

    run.shard_bytes, path = 1_000_000, tmp_path / "run"
    run.run(60, path, steps=2 * len(RECIPE.sizes))  # two at each size, or more
    assert run.step == 2 * len(RECIPE.sizes)
    again = trainer(seed=1)
    again.load(path)
    assert (again.step, again.samples) == (run.step, run.samples)
    for a, b in zip(run.average.parameters(), again.average.parameters(), strict=True):
        assert a.device.type == b.device.type == CUDA
        assert torch.isfinite(a).all()
        assert torch.equal(a, b)
    loss = again.train_step(rate=1.0)
    assert loss.device.type == CUDA
    assert torch.isfinite(loss)

    folder = tmp_path / "model"
    copy_text_encoder(BUILTIN, folder)
    run.export(folder)
    editor = Editor(load_checkpoint(folder, torch.bfloat16, torch.device(CUDA)), MemoryStore(1 << 30))
    concepts, pictures = drawable(folder, None)
    (case,) = held_out_cases("pictured", 1, RECIPE.size, pictures, concepts)
    request = case.request(steps=2)
    before, after = (np.asarray(picture) for picture in (request.picture, editor.edit(request).picture))
    assert np.array_equal(before[~request.mask], after[~request.mask])
    assert not np.array_equal(before[request.mask], after[request.mask])
