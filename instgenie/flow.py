"""The flow-matching Euler schedule of one request."""

from __future__ import annotations

import math
from dataclasses import dataclass

from instgenie.errors import ParameterError

MAX_STEPS = 1000
MAX_SHIFT = 1e6  # and at least 1 over that: beyond, nearly all steps have one noise level
_MAX_LOG_SHIFT = math.log(MAX_SHIFT)
_MAX_TOKENS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class FlowShift:
    """How a checkpoint's scheduler warps noise levels (fields of diffusers' FlowMatchEulerDiscreteScheduler).

    `dynamic` makes the shift depend on the number of image tokens: its logarithm is linear, through the two bases.

    Raises:
        ParameterError: a value of another type or outside its limits.
    """

    shift: float = 1.0
    dynamic: bool = False
    base_tokens: int = 256
    max_tokens: int = 4096
    base_shift: float = 0.5
    max_shift: float = 1.15

    def __post_init__(self) -> None:
        if not isinstance(self.dynamic, bool):
            raise ParameterError("dynamic", f"{self.dynamic!r} is neither true nor false")
        _check_number("shift", self.shift, 1 / MAX_SHIFT, MAX_SHIFT)
        for name, log_shift in (("base_shift", self.base_shift), ("max_shift", self.max_shift)):
            _check_number(name, log_shift, -_MAX_LOG_SHIFT, _MAX_LOG_SHIFT)
        for name, tokens in (("base_tokens", self.base_tokens), ("max_tokens", self.max_tokens)):
            if type(tokens) is not int:
                raise ParameterError(name, f"{tokens!r} is not a whole number")
            _check_number(name, tokens, 1, _MAX_TOKENS)
        if self.base_tokens >= self.max_tokens:
            raise ParameterError("max_tokens", f"{self.max_tokens} is not above base_tokens, {self.base_tokens}")

    def apply(self, sigma: float, num_tokens: int) -> float:
        """The warped noise level of `sigma` in 0..1, for a grid of `num_tokens` tokens."""
        factor = self.shift
        if self.dynamic:
            slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
            log_shift = self.base_shift + slope * (num_tokens - self.base_tokens)
            factor = math.exp(min(max(log_shift, -_MAX_LOG_SHIFT), _MAX_LOG_SHIFT))  # two close bases: a steep line
        return factor * sigma / (1 + (factor - 1) * sigma)


def _check_number(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ParameterError(name, f"{value!r} is not a number")
    if not low <= value <= high:  # nor is NaN
        raise ParameterError(name, f"{value} is not in {low:.6g}..{high:.6g}")


def flow_sigmas(steps: int, shift: FlowShift, num_tokens: int, strength: float = 1.0) -> tuple[float, ...]:
    """Noise levels of a request: one per step, then 0.

    Args:
        steps: denoising steps of the full schedule.
        strength: share of the schedule that is run, 0 < strength <= 1; below 1 the edit starts from the template.
    Returns:
        k + 1 levels, falling, where k = ceil(steps * strength); step i goes from level i to level i + 1.
    Raises:
        ParameterError: steps or strength outside their limits.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise ParameterError("steps", f"{steps} is not in 1..{MAX_STEPS}")
    if not 0 < strength <= 1:
        raise ParameterError("strength", f"{strength} is not in 0 < strength <= 1")
    # Evenly spaced from 1 to 1/steps, as Flux pipelines ask of the scheduler.
    levels = [shift.apply(1 - i / steps, num_tokens) for i in range(steps)]
    return (*levels[steps - max(1, math.ceil(steps * strength - 1e-9)) :], 0.0)
