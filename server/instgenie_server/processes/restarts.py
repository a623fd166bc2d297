"""When a process that died is started again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FIRST_SECONDS = 0.25
LONGEST_SECONDS = 60.0
STEADY_SECONDS = 60.0  # who lived so long was well: the next failure is a first one again


@dataclass(slots=True)
class Restarts:
    """Counts failures in a row; the waits between them double, less a random part so that servers do not go in step.

    Attributes:
        draw: a random number, 0 to 1.
        first_seconds: the wait after a first failure, at most.
        longest_seconds: any wait.
    """

    draw: Callable[[], float]
    first_seconds: float = FIRST_SECONDS
    longest_seconds: float = LONGEST_SECONDS
    failures: int = 0

    def seconds_after(self, lived_seconds: float) -> float:
        """How long to wait, now that the process has ended after so long."""
        self.failures = 1 if lived_seconds >= STEADY_SECONDS else self.failures + 1
        longest = min(self.longest_seconds, self.first_seconds * 2.0 ** min(self.failures - 1, 32))
        return longest * (0.5 + 0.5 * self.draw())
