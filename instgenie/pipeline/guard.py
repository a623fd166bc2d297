"""Whether the next step may follow its plan: a bound on what plans from wrong costs can cost. Pure."""

from __future__ import annotations

import logging
from collections import deque
from statistics import median

log = logging.getLogger(__name__)

_FIRST_WAIT_STEPS = 4
_LONGEST_WAIT_STEPS = 512
_DENSE_MEMORY = 5  # steps: two odd ones among them change nothing
_MOST_COUNTED = 20.0  # dense steps' time: no plan takes longer, but a machine that was suspended does


class PlanGuard:
    """Keeps an account, in milliseconds, of the time that steps took against dense ones.

    A step that followed its plan adds (1 + tolerance) * dense - measured to the balance, a dense step adds
    tolerance * measured. While the balance is below 0 steps have to be dense. It begins at, and never exceeds, the time
    of `most_saved` dense steps: what a good plan saved pays for an odd step, not for many.

    So over any number of steps in a row, begun at any time,

        measured <= (1 + tolerance) * dense + most_saved * (a dense step) + (excess of one step)

    where the excess is what the last step that followed a plan took above (1 + tolerance) * dense: it cannot be called
    off, and is the price of noticing. Of a step 20 dense ones' time is counted at most.

    What a dense step would have taken is its fitted time times the median of what the last five dense steps took
    against theirs. Until there was one, steps have to be dense.

    A plan that failed is tried again once the balance is paid back, and not before 4 steps; after the next failure not
    before 8, and so on up to 512, until plans have filled the balance again.
    """

    def __init__(self, tolerance: float = 0.10, most_saved: float = 2.0) -> None:
        """Raises:
        ValueError: a number below 0.
        """
        if tolerance < 0 or most_saved < 0:
            raise ValueError(f"tolerance {tolerance} or most_saved {most_saved} is below 0")
        self._tolerance, self._most_saved = tolerance, most_saved
        self._balance_ms = 0.0
        self._dense_ratios: deque[float] = deque(maxlen=_DENSE_MEMORY)
        self._failures = 0  # since plans last filled the balance
        self._wait_steps = 0

    @property
    def follows_plan(self) -> bool:
        """Whether the next step may follow its plan; else it has to be dense."""
        return bool(self._dense_ratios) and self._wait_steps == 0 and self._balance_ms >= 0

    def observe_dense(self, measured_ms: float, fitted_ms: float) -> None:
        """Take a dense step into account; for the first one, a forward on all tokens of whatever picture does.

        Args:
            measured_ms: that it took.
            fitted_ms: that it should have taken by costs that do not learn: `CostModel.fitted_ms`.
        """
        if measured_ms <= 0 or fitted_ms <= 0:
            return
        is_first = not self._dense_ratios
        self._dense_ratios.append(measured_ms / fitted_ms)
        self._wait_steps = max(0, self._wait_steps - 1)
        self._save((self._most_saved if is_first else self._tolerance) * measured_ms, measured_ms)

    def observe_plan(self, measured_ms: float, predicted_ms: float, dense_fitted_ms: float) -> None:
        """Take a step into account that followed its plan.

        Args:
            measured_ms: that it took, waiting for records included.
            predicted_ms: that it should have taken.
            dense_fitted_ms: that a dense one should have taken, by costs as those of `observe_dense`.
        """
        if not self._dense_ratios:
            return
        had_to_be_dense = not self.follows_plan  # those who load
        dense_ms = dense_fitted_ms * median(self._dense_ratios)
        self._wait_steps = max(0, self._wait_steps - 1)
        self._save((1 + self._tolerance) * dense_ms - min(measured_ms, _MOST_COUNTED * dense_ms), dense_ms)
        if had_to_be_dense:
            return
        if self._balance_ms < 0:
            self._failures += 1
            self._wait_steps = min(_LONGEST_WAIT_STEPS, _FIRST_WAIT_STEPS * 2 ** (self._failures - 1))
            if self._failures == 1:  # further ones are the same episode
                log.warning(
                    "steps are dense for a while: one by plan took %.1f ms, predicted were %.1f, dense ones take %.1f",
                    *(measured_ms, predicted_ms, dense_ms),
                )
        elif self._failures and self._balance_ms == self._most_saved * dense_ms:
            self._failures = 0
            log.info("steps follow their plans: the last took %.1f ms, dense ones take %.1f", measured_ms, dense_ms)

    def _save(self, change_ms: float, dense_ms: float) -> None:
        self._balance_ms = min(self._balance_ms + change_ms, self._most_saved * dense_ms)
