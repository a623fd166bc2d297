"""What training lowers: the error of the velocity, mostly on tokens with masked pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from builtin_recipe.network import CONTEXT_WEIGHT, token_weight, velocity_loss


def loss_of(error: Tensor, mask: Tensor) -> float:
    """The loss of a transformer that knows the velocity and is off it by `error` [B, L, C]."""
    clean, noise, time = torch.randn_like(error), torch.randn_like(error), torch.tensor([0.25, 0.5])

    def forward(hidden_states: Tensor, timestep: Tensor, **_: object) -> tuple[Tensor]:
        noisy = hidden_states[..., : error.shape[-1]]
        return ((noisy - clean) / timestep[:, None, None] + error,)

    inputs = {"states": torch.zeros(2, 3, 5), "pooled": torch.zeros(2, 5), "ids": torch.zeros(4, 3)}
    weight = token_weight(mask)
    return float(velocity_loss(forward, clean, torch.zeros(2, 4, 9), weight, time=time, noise=noise, **inputs))


def test_the_loss_is_of_the_velocity_and_weighs_masked_tokens() -> None:
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, 3, 12] = 1  # a pixel of the second of four tokens
    assert token_weight(mask)[0, :, 0].tolist() == pytest.approx([CONTEXT_WEIGHT, 1 + CONTEXT_WEIGHT] + [0.03] * 2)
    error = torch.zeros(2, 4, 6)
    assert loss_of(error, mask) == pytest.approx(0, abs=1e-6)
    error[:, 1] = 2
    masked = loss_of(error, mask)
    assert loss_of(error.roll(1, 1), mask) == pytest.approx(masked * CONTEXT_WEIGHT / (1 + CONTEXT_WEIGHT), rel=1e-4)
    assert loss_of(torch.full_like(error, 2), mask) == pytest.approx(4)
