"""The linear patch autoencoder: patches are independent, and a full basis loses nothing."""

from __future__ import annotations

import pytest
import torch

from instgenie.models.patch_autoencoder import PatchAutoencoder


def pictures(count: int = 16, size: int = 16) -> torch.Tensor:
    """[B, 3, S, S] in -1..1."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_full_basis_is_lossless() -> None:
    autoencoder = PatchAutoencoder(patch_size=2, latent_channels=12)
    kept = autoencoder.fit(pictures())
    assert kept == pytest.approx(1)
    with torch.inference_mode():
        latents = autoencoder.encode(pictures())
        assert latents.shape == (16, 12, 8, 8)
        torch.testing.assert_close(autoencoder.decode(latents), pictures(), atol=1e-4, rtol=1e-4)


def test_more_channels_keep_more() -> None:
    smooth = torch.nn.functional.avg_pool2d(pictures(16, 64), 4)
    shares = [PatchAutoencoder(4, channels).fit(smooth) for channels in (1, 4, 16, 48)]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 1.001


def test_latent_depends_on_its_own_patch_alone() -> None:
    autoencoder = PatchAutoencoder(patch_size=4, latent_channels=8)
    autoencoder.fit(pictures())
    before = pictures(1)
    after = before.clone()
    after[..., 4:8, 8:12] = 0
    with torch.inference_mode():
        changed = (autoencoder.encode(after) != autoencoder.encode(before)).any(1)[0]
    assert changed.nonzero().tolist() == [[1, 2]]


def test_latents_have_about_unit_scale() -> None:
    autoencoder = PatchAutoencoder(patch_size=4, latent_channels=8)
    autoencoder.fit(pictures())
    with torch.inference_mode():
        assert autoencoder.encode(pictures()).std() == pytest.approx(1, abs=0.1)
