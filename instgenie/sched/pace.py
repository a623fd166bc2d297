"""How fast steps are at best."""

from __future__ import annotations

from collections import deque

_FIXED_ROWS = 64  # what a step costs whatever it computes, in rows
_STEPS = 16
_NOTICED = 1.1  # times slower


class Pace:
    """The shortest time that steps may take, from the fastest of the last 16.

    It is meant to be too short rather than too long: what is given up for lack of time could not have been done. So it
    follows at once when steps become faster, and when they become slower not before that is more than a tenth: then
    all that depends on it has to be looked at again.
    """

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=_STEPS)
        self._seconds_per_row = 0.0

    @property
    def seconds_per_row(self) -> float:
        """What a row takes at least; 0 before the first step was observed."""
        return self._seconds_per_row

    def observe(self, rows: int, seconds: float) -> None:
        """A step was run."""
        if seconds > 0:
            self._last.append(seconds / (rows + _FIXED_ROWS))
            fastest = min(self._last)
            if not self._seconds_per_row <= fastest <= _NOTICED * self._seconds_per_row:
                self._seconds_per_row = fastest

    @staticmethod
    def rows_in_all(steps: int, rows: int) -> int:
        """What so many steps cost, in rows: `seconds_per_row` times that is the shortest time that they take."""
        return steps * (rows + _FIXED_ROWS)
