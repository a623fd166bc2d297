"""When edits have to be given up."""

from __future__ import annotations

import heapq
import itertools
from typing import NamedTuple

from instgenie.sched.pace import Pace
from instgenie.sched.tracked_edit import TrackedEdit


class _Watched(NamedTuple):
    """Attributes:
    number: of the watching, which tells its entry from outdated ones.
    rows: that it had to compute when it was watched.
    """

    deadline: float
    rows: int
    number: int
    edit: TrackedEdit


class Deadlines:
    """Edits with a deadline, by the time from which on they cannot be done by it, even alone.

    That time grows with every step that an edit takes, and when the pace becomes faster: then its entry in the heap is
    too early, and is put right when it comes up. It shrinks when an edit computes more than was thought, which is then
    watched anew, and when the pace becomes slower, which makes the heap anew.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._pace_of_heap = pace.seconds_per_row
        self._watched: dict[str, _Watched] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._numbers = itertools.count()

    def watch(self, edit: TrackedEdit) -> None:
        """Watch its deadline, if it has one; again, when it computes more than before."""
        task = edit.task
        if task.deadline is not None:
            watched = _Watched(task.deadline, _rows_left(edit), next(self._numbers), edit)
            self._watched[task.id] = watched
            heapq.heappush(self._heap, (self._latest(watched), watched.number, task.id))

    def forget(self, edit_id: str) -> None:
        """It is over."""
        self._watched.pop(edit_id, None)

    def due(self, now: float) -> list[str]:
        """Edits that can no more be done in time. They are watched no more."""
        due = []
        while (first := self._first()) and first[0] <= now:
            del self._watched[first[-1]]
            due.append(first[-1])
        return due

    def next(self) -> float | None:
        """When the first edit is due as things are; None where none has a deadline."""
        first = self._first()
        return first[0] if first else None

    def _latest(self, watched: _Watched) -> float:
        return watched.deadline - _rows_left(watched.edit) * self._pace.seconds_per_row

    def _first(self) -> tuple[float, int, str] | None:
        self._follow_pace()
        while self._heap:
            at, number, edit_id = self._heap[0]
            watched = self._watched.get(edit_id)
            if watched is None or watched.number != number:
                heapq.heappop(self._heap)
            elif (latest := self._latest(watched)) > at:
                heapq.heapreplace(self._heap, (latest, number, edit_id))
            else:
                return self._heap[0]
        return None

    def _follow_pace(self) -> None:
        pace = self._pace.seconds_per_row
        if pace > self._pace_of_heap:
            self._heap = [
                (watched.deadline - watched.rows * pace, watched.number, edit_id)
                for edit_id, watched in self._watched.items()
            ]
            heapq.heapify(self._heap)
        self._pace_of_heap = pace


def _rows_left(edit: TrackedEdit) -> int:
    return Pace.rows_in_all(edit.computed_left, edit.task.rows(edit.route))  # refreshes may be behind it
