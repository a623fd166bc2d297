"""Pixels to packed latent tokens and back, whatever autoencoder the checkpoint has."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from instgenie.conditioning import pack_latents, unpack_latents
from instgenie.models.patch_autoencoder import PatchAutoencoder


class LatentCodec(Protocol):
    """Encodes pictures as packed latent tokens.

    Attributes:
        patch: side in pixels of the square that one token covers.
        pack: latents on a side of that square.
        channels: C, length of a token.
    """

    patch: int
    pack: int
    channels: int

    def encode(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] in -1..1 -> [B, L, C] float32; H and W are multiples of `patch`."""
        ...

    def decode(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """[B, L, C] -> [B, 3, H, W] float32, nominally in -1..1."""
        ...


class PatchCodec:
    """`LatentCodec` of a `PatchAutoencoder`: one latent is one token."""

    pack = 1

    def __init__(self, autoencoder: PatchAutoencoder) -> None:
        self._autoencoder = autoencoder.eval()
        self.patch: int = autoencoder.config.patch_size
        self.channels: int = autoencoder.config.latent_channels

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """See `LatentCodec`."""
        return pack_latents(self._autoencoder.encode(pixels.to(self._autoencoder.device)), 1).float()

    @torch.inference_mode()
    def decode(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """See `LatentCodec`."""
        latents = unpack_latents(tokens.to(self._autoencoder.device), grid, 1)
        pixels: Tensor = self._autoencoder.decode(latents)
        return pixels.float()


class KlCodec:
    """`LatentCodec` of diffusers' AutoencoderKL as Flux uses it: 2x2 latents are one token, the mean is taken.

    Raises:
        ValueError: latents are scaled by what is no number, or channel by channel.
    """

    pack = 2

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        self._autoencoder = autoencoder.eval()
        config = autoencoder.config
        scale, shift = config.scaling_factor, config.shift_factor
        if not _is_finite(scale) or scale <= 0:
            raise ValueError(f"scaling_factor = {scale!r} is not a finite number above 0")
        if shift is not None and not _is_finite(shift):
            raise ValueError(f"shift_factor = {shift!r} is not a finite number")
        for name in ("latents_mean", "latents_std"):
            if config.get(name) is not None:
                raise ValueError(f"{name} = {config[name]!r} is not supported, only null")
        self.patch: int = self.pack * 2 ** (len(config.block_out_channels) - 1)
        self.channels: int = config.latent_channels * self.pack**2
        self._shift, self._scale = shift or 0.0, scale

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """See `LatentCodec`."""
        vae = self._autoencoder
        mean = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode()
        return pack_latents((mean.float() - self._shift) * self._scale, self.pack)

    @torch.inference_mode()
    def decode(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """See `LatentCodec`."""
        vae = self._autoencoder
        latents = unpack_latents(tokens, grid, self.pack) / self._scale + self._shift
        pixels: Tensor = vae.decode(latents.to(vae.device, vae.dtype), return_dict=False)[0]
        return pixels.float()


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
