"""Velocities of an edit's last steps, from which a step cache extrapolates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class KnownVelocity:
    """Attributes:
    step: at which it was computed.
    velocity: [E, C] float32, of the editable tokens.
    """

    step: int
    velocity: Tensor


def extrapolate(before: KnownVelocity, last: KnownVelocity, step: int) -> Tensor:
    """The velocity at a later step, on the line through two known ones: [E, C] float32."""
    reach = (step - last.step) / (last.step - before.step)
    return torch.lerp(before.velocity, last.velocity, 1 + reach)
