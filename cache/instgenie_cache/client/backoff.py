"""How long to wait between attempts."""

from __future__ import annotations

from dataclasses import dataclass

_MOST_DOUBLINGS = 30  # beyond it any first pause is longer than any last one


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses that double from `first_seconds` up to `max_seconds`, and a random part of `jitter_seconds` on top."""

    first_seconds: float
    max_seconds: float
    jitter_seconds: float

    def pause_seconds(self, failures: int, chance: float) -> float:
        """The pause after so many failures in a row, of which there is at least one.

        Args:
            chance: random, from 0 to 1.
        """
        doubled_seconds = self.first_seconds * 2.0 ** min(failures - 1, _MOST_DOUBLINGS)
        return min(self.max_seconds, doubled_seconds) + self.jitter_seconds * chance
