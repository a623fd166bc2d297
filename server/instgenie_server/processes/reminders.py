"""When something that goes on for long is told again."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_SECONDS = 10.0
LONGEST_SECONDS = 600.0


@dataclass(slots=True)
class Reminders:
    """Due at once, then at intervals that double up to the longest one.

    Attributes:
        first_seconds: from when it is told at first until it is told again.
        longest_seconds: between two times.
    """

    first_seconds: float = FIRST_SECONDS
    longest_seconds: float = LONGEST_SECONDS
    _due_at: float = 0.0
    _interval_seconds: float = 0.0

    def is_due(self, seconds: float) -> bool:
        """Whether it is to be told now that it goes on for so long. If so, the next time is later."""
        if seconds < self._due_at:
            return False
        self._interval_seconds = min(2 * self._interval_seconds or self.first_seconds, self.longest_seconds)
        self._due_at = seconds + self._interval_seconds
        return True
