"""How much longer than it was fitted something takes now. Pure."""

from __future__ import annotations

from collections import deque
from math import exp, log
from statistics import median

_SHARE_OF_NEWEST = 0.3


class CostFactor:
    """Exponential average of the median of the last three ratios that were observed.

    So a single odd one, as of a process that was swapped out, changes nothing.
    """

    def __init__(self, largest: float, value: float | None = 1.0) -> None:
        """Args:
        largest: no factor is above it, or below 1 / largest.
        value: to begin with; None where the first observation shall decide, and 1 until then.
        """
        self._limit = log(largest)
        self._log = 0.0 if value is None else self._clamped(log(value))
        self._last: deque[float] = deque([] if value is None else [self._log, self._log], maxlen=3)

    @property
    def value(self) -> float:
        """The factor."""
        return exp(self._log)

    def observe(self, ratio: float) -> float:
        """Learn from something that took `ratio` times as long as fitted.

        Returns:
            by how much the factor's logarithm changed.
        """
        share = _SHARE_OF_NEWEST if self._last else 1.0
        self._last.append(self._clamped(log(ratio)))
        change = share * (median(self._last) - self._log)
        self._log += change
        return change

    def nudge(self, change: float) -> None:
        """Change the factor's logarithm, as something alike has shown."""
        self._log = self._clamped(self._log + change)

    def _clamped(self, value: float) -> float:
        return max(-self._limit, min(self._limit, value))
