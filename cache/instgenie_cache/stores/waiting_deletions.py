"""Deletions that failed: which one is tried again, and when. No I/O and no clock here."""

from __future__ import annotations


class WaitingDeletions:
    """Each is tried again once it has waited long enough, those that failed first before others.

    An attempt that took long to fail says that the tier does not answer: then none is made for a while, as each would
    take as long.
    """

    def __init__(self, retry_seconds: float, slow_seconds: float) -> None:
        """Args:
        retry_seconds: between two attempts at one, and without any at all after one that took long to fail.
        slow_seconds: how long that is.
        """
        self._retry_seconds, self._slow_seconds = retry_seconds, slow_seconds
        self._due_at: dict[str, float] = {}  # in the order in which they failed
        self._paused_until = float("-inf")

    def __len__(self) -> int:
        return len(self._due_at)

    def failed(self, template: str, seconds: float, now: float) -> None:
        """An attempt, which took so many seconds, came to nothing."""
        self._due_at.pop(template, None)
        self._due_at[template] = now + self._retry_seconds
        if seconds >= self._slow_seconds:
            self._paused_until = now + self._retry_seconds

    def postpone(self, template: str, now: float) -> None:
        """No attempt was made, as there is a pause."""
        self.failed(template, 0.0, now)

    def forget(self, template: str) -> None:
        """It is done."""
        self._due_at.pop(template, None)

    def is_paused(self, now: float) -> bool:
        """Whether the tier did not answer a little while ago."""
        return now < self._paused_until

    def take_due(self, now: float) -> str | None:
        """The one to try now, which does not wait any more; None where there is none."""
        seconds = self.seconds_to_next(now)
        return None if seconds is None or seconds > 0 else self.take()

    def take(self) -> str | None:
        """The first one, due or not; None where there is none."""
        template = next(iter(self._due_at), None)
        if template is not None:
            del self._due_at[template]
        return template

    def seconds_to_next(self, now: float) -> float | None:
        """Until there is one to try; None where none waits."""
        first = next(iter(self._due_at.values()), None)
        return None if first is None else max(0.0, first - now, self._paused_until - now)
