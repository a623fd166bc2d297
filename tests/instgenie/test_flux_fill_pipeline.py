"""A dense edit of a Flux Fill model against diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxFillPipeline
from PIL import Image
from torch import Tensor

from instgenie.checkpoint import Checkpoint
from instgenie.mask import Mask
from instgenie.trajectory import seeded_noise
from tests.instgenie.edits import a_request, an_editor, pixels, random_picture, watched
from tests.instgenie.tiny_flux import relative_error

PROMPT, SEED, STEPS = "a red apple", 7, 4


@pytest.fixture(scope="module")
def pipeline(tiny_flux_fill: Path) -> FluxFillPipeline:
    """The pipeline on the same folder. Its encodings are samples, so the autoencoder is left no variance."""
    loaded = FluxFillPipeline.from_pretrained(tiny_flux_fill)
    loaded.set_progress_bar_config(disable=True)
    last = loaded.vae.encoder.conv_out
    with torch.no_grad():
        last.weight[last.out_channels // 2 :] = 0
        last.bias[last.out_channels // 2 :] = -30
    return loaded


class Watch:
    """Keeps what the pipeline's transformer is given and what it answers."""

    def __init__(self, pipeline: FluxFillPipeline) -> None:
        self.inputs: list[dict[str, Any]] = []
        self.velocities: list[Tensor] = []
        self._handle = pipeline.transformer.register_forward_hook(self._keep, with_kwargs=True)

    def _keep(self, _module: object, _args: object, inputs: dict[str, Any], output: tuple[Tensor]) -> None:
        self.inputs.append(inputs)
        self.velocities.append(output[0])

    def close(self) -> None:
        self._handle.remove()


def run_pipeline(pipeline: FluxFillPipeline, picture: Image.Image, mask: Mask) -> tuple[Watch, Image.Image]:
    """The pipeline's edit of a 64x64 picture, from the noise that ours starts from."""
    watch = Watch(pipeline)
    try:
        (result,) = pipeline(
            prompt=PROMPT,
            image=picture,
            mask_image=Image.fromarray(mask),
            height=64,
            width=64,
            num_inference_steps=STEPS,
            guidance_scale=30.0,
            latents=seeded_noise((16, 16), SEED)[None],
            max_sequence_length=8,
        ).images
    finally:
        watch.close()
    return watch, result


def a_mask(kind: str) -> Mask:
    """[64, 64]: a box that is not made of whole tokens or latents, single pixels, the left half, or everything."""
    mask = np.zeros((64, 64), bool)
    if kind == "box":
        mask[5:31, 18:37] = True
    elif kind == "pixels":
        mask[[3, 20, 20, 47], [60, 1, 14, 33]] = True
    else:
        mask[:, : 32 if kind == "half" else 64] = True
    return mask


@pytest.mark.parametrize("kind", ["box", "pixels", "half"])
def test_first_step_equals_the_pipelines(flux_fill_kind: Checkpoint, pipeline: FluxFillPipeline, kind: str) -> None:
    picture, mask = random_picture(seed=3), a_mask(kind)
    watch, _ = run_pipeline(pipeline, picture, mask)
    checkpoint, forward = watched(flux_fill_kind)
    an_editor(checkpoint).dense(a_request(picture, mask=mask, prompt=PROMPT, seed=SEED, template_seed=SEED))
    theirs = watch.inputs[0]
    ((segment,), (velocity,)), *_ = forward.calls
    assert segment.tokens.shape == theirs["hidden_states"][0].shape == (16, 16 + 16 + 256)
    noisy, masked, channels = segment.tokens.split([16, 16, 256], dim=1)
    their_noisy, their_masked, their_channels = theirs["hidden_states"][0].split([16, 16, 256], dim=1)
    assert torch.equal(noisy, their_noisy)
    assert relative_error(masked, their_masked) <= 1e-5
    assert torch.equal(channels, their_channels)
    assert channels.sum() == mask.sum()
    assert torch.equal(segment.text, theirs["encoder_hidden_states"][0])
    torch.testing.assert_close(segment.pooled, theirs["pooled_projections"][0])
    assert torch.equal(segment.image_ids, theirs["img_ids"])
    assert not theirs["txt_ids"].any()
    assert segment.timestep == pytest.approx(theirs["timestep"].item())
    assert segment.guidance == theirs["guidance"].item()
    assert relative_error(velocity, watch.velocities[0][0]) <= 1e-5


def test_edit_of_everything_equals_the_pipelines(flux_fill_kind: Checkpoint, pipeline: FluxFillPipeline) -> None:
    """With nothing to keep, all steps agree, not the first alone, and so do the pictures."""
    picture, mask = random_picture(seed=3), a_mask("everything")
    watch, expected = run_pipeline(pipeline, picture, mask)
    checkpoint, forward = watched(flux_fill_kind)
    result = an_editor(checkpoint).dense(a_request(picture, mask=mask, prompt=PROMPT, seed=SEED))
    assert len(forward.calls) == len(watch.inputs) == STEPS
    for ((segment,), (velocity,)), theirs, their_velocity in zip(
        forward.calls, watch.inputs, watch.velocities, strict=True
    ):
        assert segment.timestep == pytest.approx(theirs["timestep"].item(), abs=1e-6)
        assert relative_error(segment.tokens, theirs["hidden_states"][0]) <= 1e-4
        assert relative_error(velocity, their_velocity[0]) <= 1e-4
    difference = pixels(result.picture).astype(int) - pixels(expected)
    assert np.abs(difference).max() <= 1
