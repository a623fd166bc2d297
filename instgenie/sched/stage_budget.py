"""How much stage work goes between two steps."""

from __future__ import annotations

from collections import deque
from statistics import median_low
from typing import get_args

from instgenie.sched.step_batch import StageKind

_ITEMS = 8


class StageBudget:
    """Items may take a share of the last step's time before the next step, but the first one always goes.

    An item is expected to take the median of the last eight of its kind. The mean would let the first item, which
    warms the device up, or one whose edit has left, which takes no time, stand for those that come after it.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._step_seconds = 0.0
        self._spent: float | None = None  # since the last step; None before the first item
        self._seconds: dict[StageKind, deque[float]] = {kind: deque(maxlen=_ITEMS) for kind in get_args(StageKind)}
        self._begun: tuple[StageKind, float] | None = None

    def allows(self, kind: StageKind) -> bool:
        """Whether an item of the kind may go before the next step; after the first none whose time is not known yet."""
        if self._spent is None:
            return True
        seconds = self._seconds[kind]
        return bool(seconds) and self._spent + median_low(seconds) <= self._share * self._step_seconds

    def begin(self, kind: StageKind, now: float) -> None:
        """An item is handed out."""
        self._begun = kind, now

    def end(self, now: float) -> None:
        """What was handed out last is done; nothing happens where it was told already."""
        if self._begun is not None:
            kind, begun = self._begun
            seconds = now - begun
            self._begun = None
            self._seconds[kind].append(seconds)
            self._spent = (self._spent or 0.0) + seconds

    def stepped(self, seconds: float) -> None:
        """A step was run; one of 0 seconds, which computed nothing, says nothing of the next."""
        self._spent = None
        self._step_seconds = seconds or self._step_seconds
