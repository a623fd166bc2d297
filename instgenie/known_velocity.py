"""Velocities of an edit's last steps, from which a step cache extrapolates."""

from __future__ import annotations

from collections.abc import Sequence
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


def extrapolate(known: Sequence[KnownVelocity], step: int) -> Tensor:
    """The velocity at a later step, [E, C] float32: on the line through two known ones, or the only one.

    Args:
        known: one or two, in the order of their steps.
    """
    *earlier, last = known
    if not earlier:
        return last.velocity
    before = earlier[-1]
    reach = (step - last.step) / (last.step - before.step)
    return torch.lerp(before.velocity, last.velocity, 1 + reach)
