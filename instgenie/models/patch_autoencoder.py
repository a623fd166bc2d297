"""A linear patch autoencoder: the autoencoder of the embedded model."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class PatchAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Maps each patch of pixels to one latent vector and back, by one matrix each way.

    Non-overlapping patches mean that a latent depends on its own pixels alone, so nothing outside the mask can leak
    in or out through the autoencoder. The matrices are a scaled PCA basis (`fit`).

    Args:
        patch_size: side of a patch in pixels.
        latent_channels: length C of a latent vector.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, patch_size: int = 8, latent_channels: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, latent_channels, patch_size, stride=patch_size)
        self.decoder = nn.ConvTranspose2d(latent_channels, 3, patch_size, stride=patch_size)

    def encode(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] in -1..1 -> [B, C, H/patch, W/patch]."""
        return self.encoder(pixels)  # type: ignore[no-any-return]

    def decode(self, latents: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, 3, h*patch, w*patch], nominally in -1..1."""
        return self.decoder(latents)  # type: ignore[no-any-return]

    @torch.no_grad()
    def fit(self, pixels: Tensor, *, whitening: float = 0.6, floor: float = 0.02) -> float:
        """Set the matrices to the leading principal components of these pictures' patches.

        Components are divided by their deviation to the power `whitening`, so that latents have about unit scale
        while the leading ones still weigh more.

        Args:
            pixels: [B, 3, H, W] in -1..1.
        Returns:
            Share of the variance kept, 0..1.
        """
        patch, channels = self.config.patch_size, self.config.latent_channels
        rows = nn.functional.pixel_unshuffle(pixels, patch).movedim(1, -1).reshape(-1, 3 * patch * patch)
        colour = rows.reshape(-1, 3, patch * patch).mean((0, 2))
        mean = colour.repeat_interleave(patch * patch)
        _, deviation, basis = torch.linalg.svd(rows - mean, full_matrices=False)
        deviation = deviation / len(rows) ** 0.5
        basis = basis[:channels]
        scale = deviation[:channels].clamp(min=floor) ** whitening
        scale = scale * ((rows - mean) @ basis.T / scale).std()
        analysis = basis / scale[:, None]
        self.encoder.weight.copy_(analysis.reshape(channels, 3, patch, patch))
        self.encoder.bias.copy_(-analysis @ mean)  # type: ignore[union-attr]
        self.decoder.weight.copy_((basis * scale[:, None]).reshape(channels, 3, patch, patch))
        self.decoder.bias.copy_(colour)  # type: ignore[union-attr]
        return float((deviation[:channels] ** 2).sum() / (deviation**2).sum())
