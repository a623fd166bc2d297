"""Latent codecs: KL against diffusers' Flux pipelines, patch by its definition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FluxFillPipeline
from diffusers.pipelines.flux.pipeline_flux_fill import retrieve_latents
from torch import Tensor

from instgenie.autoencoder import KlCodec, LatentCodec, PatchCodec
from instgenie.models.patch_autoencoder import PatchAutoencoder


def random_pixels(height: int, width: int, batch: int = 1) -> Tensor:
    """[B, 3, H, W] in -1..1."""
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def vae(tiny_flux_fill: Path) -> AutoencoderKL:
    """The tiny convolutional autoencoder."""
    return AutoencoderKL.from_pretrained(tiny_flux_fill / "vae", low_cpu_mem_usage=False)


@pytest.fixture(scope="module")
def patch_autoencoder(tiny_builtin: Path) -> PatchAutoencoder:
    """The tiny linear autoencoder."""
    return PatchAutoencoder.from_pretrained(tiny_builtin / "vae", low_cpu_mem_usage=False)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 80)])
def test_kl_encodes_as_the_pipelines_do(vae: AutoencoderKL, height: int, width: int) -> None:
    pixels = random_pixels(height, width, batch=2)
    codec = KlCodec(vae)
    assert (codec.patch, codec.pack, codec.channels) == (16, 2, 16)
    with torch.inference_mode():
        latents = retrieve_latents(vae.encode(pixels), sample_mode="argmax")
    latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    expected = FluxFillPipeline._pack_latents(latents, 2, 4, height // 8, width // 8)
    assert torch.equal(codec.encode(pixels), expected)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 80)])
def test_kl_decodes_as_the_pipelines_do(vae: AutoencoderKL, height: int, width: int) -> None:
    grid = (height // 16, width // 16)
    tokens = torch.randn(2, grid[0] * grid[1], 16, generator=torch.Generator().manual_seed(0))
    latents = FluxFillPipeline._unpack_latents(tokens, height, width, 8)
    latents = (latents / vae.config.scaling_factor) + vae.config.shift_factor
    with torch.inference_mode():
        expected = vae.decode(latents, return_dict=False)[0]
    decoded = KlCodec(vae).decode(tokens, grid)
    assert decoded.shape == (2, 3, height, width)
    torch.testing.assert_close(decoded, expected)


def test_kl_in_bfloat16_answers_in_float32(tiny_flux_fill: Path) -> None:
    vae = AutoencoderKL.from_pretrained(tiny_flux_fill / "vae", torch_dtype=torch.bfloat16, low_cpu_mem_usage=False)
    codec = KlCodec(vae)
    tokens = codec.encode(random_pixels(32, 32))
    assert tokens.dtype == torch.float32
    assert codec.decode(tokens, (2, 2)).dtype == torch.float32


def test_kl_without_a_shift() -> None:
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, shift_factor=None, scaling_factor=2.0)
    pixels = random_pixels(8, 8)
    codec = KlCodec(vae)
    assert codec.patch == 2
    with torch.inference_mode():
        mean = vae.encode(pixels).latent_dist.mode()
    assert torch.equal(codec.encode(pixels), FluxFillPipeline._pack_latents(2 * mean, 1, 4, 8, 8))


def test_patch_tokens_are_in_raster_order(patch_autoencoder: PatchAutoencoder) -> None:
    codec = PatchCodec(patch_autoencoder)
    assert (codec.patch, codec.pack, codec.channels) == (8, 1, 8)
    pixels = random_pixels(24, 40)
    tokens = codec.encode(pixels)
    assert tokens.shape == (1, 15, 8)
    alone = codec.encode(pixels[..., 8:16, 16:24])
    torch.testing.assert_close(tokens[:, 7:8], alone)
    decoded = codec.decode(tokens, (3, 5))
    assert decoded.shape == pixels.shape
    torch.testing.assert_close(decoded[..., 8:16, 16:24], codec.decode(alone, (1, 1)))


def test_patch_codec_keeps_smooth_pictures(patch_autoencoder: PatchAutoencoder) -> None:
    codec = PatchCodec(patch_autoencoder)
    smooth = torch.nn.functional.interpolate(random_pixels(8, 8), size=(64, 64), mode="bilinear")
    error = codec.decode(codec.encode(smooth), (8, 8)) - smooth
    assert error.std() < 0.3 * smooth.std()  # 0.25: the first 8 of 192 components


@pytest.mark.parametrize("kind", ["kl", "patch"])
def test_pictures_of_a_batch_do_not_mix(kind: str, vae: AutoencoderKL, patch_autoencoder: PatchAutoencoder) -> None:
    codec: LatentCodec = KlCodec(vae) if kind == "kl" else PatchCodec(patch_autoencoder)
    pixels = random_pixels(32, 32, batch=3)
    for picture, tokens in zip(pixels, codec.encode(pixels), strict=True):
        torch.testing.assert_close(codec.encode(picture[None])[0], tokens)
