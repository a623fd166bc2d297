"""What steps take on average, against what costs say that were calibrated. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_SHARE_OF_NEWEST = 1 / 128
_MOST_TIMES = 4.0  # longer than expected, that a step counts as: one in which the process was stopped says nothing
# Added to the variance of the base's shares: where all steps are alike, they do not tell what the base takes.
_DOUBT = 0.002


@dataclass(frozen=True, slots=True)
class ExpectedStep:
    """A step by calibrated costs.

    Attributes:
        base_seconds: of it, what it takes whatever it computes.
        seconds: all of it; above 0.
    """

    base_seconds: float
    seconds: float


class StepCorrection:
    """A line through steps: their time, by the expected, against the base's share in that.

    Calibrated costs are of what blocks take as a rule: shortest times, and medians. Whoever adds steps up has to know
    what these take on average, with what is between and before the blocks. On two cores that was a tenth more, but
    less for steps of one edit: the base was thought too large, and what edits add too small.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._share = self._ratio = 0.0  # means
        self._variance = self._covariance = 0.0  # of the shares; of these and the ratios

    def observe(self, expected: ExpectedStep, seconds: float) -> None:
        """Learn from a step, which took so long."""
        share, ratio = expected.base_seconds / expected.seconds, min(_MOST_TIMES, seconds / expected.seconds)
        self._steps += 1
        newest = max(_SHARE_OF_NEWEST, 1 / self._steps)
        off, ratio_off = share - self._share, ratio - self._ratio
        self._share += newest * off
        self._ratio += newest * ratio_off
        # From 0 up: few steps do not tell either.
        self._variance += _SHARE_OF_NEWEST * (off * (share - self._share) - self._variance)
        self._covariance += _SHARE_OF_NEWEST * (ratio_off * (share - self._share) - self._covariance)

    def factors(self) -> tuple[float, float]:
        """How many times as long as expected the base takes, and what segments add; 1 before the first step."""
        if not self._steps:
            return 1.0, 1.0
        slope = self._covariance / (self._variance + _DOUBT)
        at_none = self._ratio - slope * self._share
        if at_none < 0 or at_none + slope < 0:  # one of them would take less than nothing
            return self._ratio, self._ratio
        return at_none + slope, at_none
