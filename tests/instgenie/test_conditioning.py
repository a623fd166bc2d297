"""Packing against diffusers' Flux pipelines: the order of channels decides what a Flux Fill model sees."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import FluxFillPipeline, FluxPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instgenie.conditioning import image_ids, mask_pixels, pack_latents, unpack_latents

GRIDS = st.tuples(st.integers(1, 6), st.integers(1, 6))


def numbered(*shape: int) -> Tensor:
    """Every element another whole number."""
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)


@settings(deadline=None, max_examples=25)
@given(GRIDS, st.integers(1, 2), st.integers(1, 4))
def test_latents_pack_as_in_flux(grid: tuple[int, int], batch: int, channels: int) -> None:
    rows, columns = grid
    latents = numbered(batch, channels, 2 * rows, 2 * columns)
    tokens = pack_latents(latents, 2)
    assert torch.equal(tokens, FluxPipeline._pack_latents(latents, batch, channels, 2 * rows, 2 * columns))
    assert torch.equal(unpack_latents(tokens, grid, 2), latents)
    assert torch.equal(FluxPipeline._unpack_latents(tokens, 16 * rows, 16 * columns, 8), latents)


def test_single_latents_pack_in_raster_order() -> None:
    latents = numbered(2, 3, 4, 5)
    tokens = pack_latents(latents, 1)
    assert torch.equal(tokens, latents.permute(0, 2, 3, 1).reshape(2, 20, 3))
    assert torch.equal(unpack_latents(tokens, (4, 5), 1), latents)


@settings(deadline=None, max_examples=25)
@given(GRIDS, st.sampled_from([1, 2, 8]))
def test_fill_conditioning_packs_as_in_flux_fill(grid: tuple[int, int], pixels_per_latent: int) -> None:
    rows, columns = grid
    height, width = 2 * rows * pixels_per_latent, 2 * columns * pixels_per_latent
    config = SimpleNamespace(shift_factor=0.0, scaling_factor=1.0)
    pipeline = SimpleNamespace(
        vae=SimpleNamespace(config=config),
        vae_scale_factor=pixels_per_latent,
        _pack_latents=FluxFillPipeline._pack_latents,
    )
    latents = numbered(1, 4, 2 * rows, 2 * columns)
    mask = numbered(1, 1, height, width)
    theirs, their_latents = FluxFillPipeline.prepare_mask_latents(
        pipeline, mask, latents, 1, 4, 1, height, width, torch.float32, "cpu", None
    )
    ours = mask_pixels(mask, patch=2 * pixels_per_latent, pack=2)
    assert ours.shape == (1, rows * columns, 4 * pixels_per_latent**2)
    assert torch.equal(ours, theirs)
    assert torch.equal(pack_latents(latents, 2), their_latents)


def test_mask_pixels_of_a_token_are_its_own() -> None:
    mask = torch.zeros(1, 1, 16, 24)
    mask[..., 8:16, 8:16] = 1
    for pack in (1, 2):
        tokens = mask_pixels(mask, patch=8, pack=pack)
        assert tokens.shape == (1, 6, 64)
        assert tokens.sum(-1).tolist() == [[0, 0, 0, 0, 64, 0]]


def test_position_ids_are_those_of_flux() -> None:
    expected = FluxPipeline._prepare_latent_image_ids(1, 3, 5, "cpu", torch.float32)
    assert torch.equal(image_ids((3, 5)), expected)
    assert image_ids((1, 1)).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("pack", [1, 2])
def test_batch_entries_stay_apart(pack: int) -> None:
    latents = numbered(2, 3, 4, 4)
    assert torch.equal(pack_latents(latents, pack)[1:], pack_latents(latents[1:], pack))
