"""How long an edit will keep a device busy, from how long others did."""

from __future__ import annotations

from dataclasses import dataclass

_GUESS = 1e-4  # seconds a token
OVERHEAD_TOKENS = 64  # a pass costs as much more than its tokens do: weights are read, kernels are launched


@dataclass(frozen=True, slots=True)
class EditWork:
    """What an edit computes.

    Attributes:
        forwards: model passes.
        tokens: image tokens over all passes.
    """

    forwards: int
    tokens: int


def edit_work(*, steps: int, passes: int, tokens_active: int, tokens_total: int, is_cold: bool) -> EditWork:
    """The passes of an edit, and of the template lane where it is cold."""
    lane = steps if is_cold else 0
    return EditWork(steps * passes + lane, steps * passes * tokens_active + lane * tokens_total)


class EditCost:
    """Seconds of an edit, proportional to its tokens and passes; the factor follows what was measured."""

    def __init__(self, seconds_per_token: float | None = None, share_of_newest: float = 0.2) -> None:
        """Without a factor the first observation sets it, and until then a guess is used."""
        self._is_guess = seconds_per_token is None
        self.seconds_per_token = _GUESS if seconds_per_token is None else seconds_per_token
        self._share_of_newest = share_of_newest

    def predict(self, work: EditWork) -> float:
        """Seconds of such an edit."""
        return self.seconds_per_token * _weight(work)

    def observe(self, work: EditWork, seconds: float) -> None:
        """Learn from an edit that was run."""
        if not (weight := _weight(work)):
            return
        if self._is_guess:
            self._is_guess, self.seconds_per_token = False, seconds / weight
        else:
            self.seconds_per_token += self._share_of_newest * (seconds / weight - self.seconds_per_token)


def _weight(work: EditWork) -> int:
    return work.tokens + OVERHEAD_TOKENS * work.forwards
