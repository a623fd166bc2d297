"""A template's trajectory: its noised latents at every step, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def seeded_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal float32 of the shape, the same for a seed on every device (drawn on the CPU)."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Straight line from noise to the template: `clean` and `noise` are [L, C] packed latents, float32."""

    clean: Tensor
    noise: Tensor

    def at(self, sigma: float) -> Tensor:
        """[L, C] latents at noise level `sigma` in 0..1."""
        return torch.lerp(self.clean, self.noise, sigma)
