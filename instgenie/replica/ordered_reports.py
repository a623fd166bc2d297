"""Reports of an edit in the order of its steps, though previews among them take a while to make."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from instgenie.orders import StepReport


class OrderedReports:
    """Holds reports back until those before them are complete. For use by several threads."""

    def __init__(self, tell: Callable[[StepReport], None]) -> None:
        """Args:
        tell: called in the order of the reports, with the lock held: it must not wait.
        """
        self._tell = tell
        self._lock = threading.Lock()
        self._held: deque[StepReport] = deque()
        self._awaited: set[int] = set()  # steps

    def add(self, report: StepReport, *, awaits_preview: bool = False) -> None:
        """Tell a report, or hold it until `add_preview` is called for its step."""
        with self._lock:
            self._held.append(report)
            if awaits_preview:
                self._awaited.add(report.step)
            self._flush()

    def add_preview(self, step: int, preview: bytes | None) -> None:
        """The preview of a step is made; None could not be."""
        with self._lock:
            self._awaited.discard(step)
            self._held = deque(replace(r, preview=preview) if r.step == step else r for r in self._held)
            self._flush()

    def _flush(self) -> None:
        while self._held and self._held[0].step not in self._awaited:
            self._tell(self._held.popleft())
