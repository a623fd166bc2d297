"""Random tensors from one generator, on its device."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor


class Draws:
    """What is drawn depends on the generator's state and on the order of the calls alone."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self.device = generator.device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Float32 in low..high."""
        return torch.rand(shape, generator=self._generator, device=self.device) * (high - low) + low

    def normal(self, *shape: int) -> Tensor:
        """Float32 of mean 0 and deviation 1."""
        return torch.randn(shape, generator=self._generator, device=self.device)

    def chance(self, share: float, *shape: int) -> Tensor:
        """True for about that share."""
        return self.uniform(0, 1, *shape) < share

    def below(self, limits: Tensor) -> Tensor:
        """Whole numbers, int64, from 0 to below each of the limits; 0 where the limit is."""
        return (self.uniform(0, 1, *limits.shape) * limits).long().clamp(max=limits.long() - 1).clamp(min=0)

    def choice(self, weights: Sequence[float], *shape: int) -> Tensor:
        """Places in `weights`, int64, as often as these say; they need not add up to 1."""
        drawn = self.uniform(0, sum(weights), *shape)
        found = torch.zeros(shape, dtype=torch.long, device=self.device)
        for edge in list(accumulate(weights))[:-1]:  # edges as arguments: a tensor of them would have to be copied
            found += drawn >= edge
        return found
