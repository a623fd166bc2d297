"""Edits that can run, in the order in which their encoding began, but a tenant's best first."""

from __future__ import annotations

import itertools
from bisect import insort
from dataclasses import dataclass, field

from instgenie.sched.fairness import Turn


@dataclass(slots=True)
class _Line:
    """What waits of a tenant: its turns, and its edits by order; as many of either, each sorted."""

    turns: list[tuple[float, int]] = field(default_factory=list)
    entries: list[tuple[float, int, str]] = field(default_factory=list)


class ReadyQueue:
    """Each edit brings its `Turn.at`, and a tenant's earliest turn goes to the edit of it that is first by order.

    A turn was charged for when it was given. So an edit is overtaken by edits of other tenants only where their turn is
    earlier than its own.
    """

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._entries: dict[str, tuple[str, tuple[float, int, str]]] = {}  # id -> tenant, entry
        self._numbers = itertools.count()

    def put(self, edit_id: str, tenant: str, order: float, at: float) -> None:
        """Let it wait for its admission."""
        assert edit_id not in self._entries
        number = next(self._numbers)
        entry = (order, number, edit_id)
        self._entries[edit_id] = (tenant, entry)
        line = self._lines.setdefault(tenant, _Line())
        insort(line.turns, (at, number))
        insort(line.entries, entry)

    def first(self) -> str | None:
        """What is next; None where nothing waits."""
        if not self._lines:
            return None
        return min(self._lines.values(), key=lambda line: line.turns[0]).entries[0][-1]

    def take(self) -> Turn:
        """Take what is next, with the turn that it used. There has to be something."""
        edit_id = self.first()
        assert edit_id is not None
        at, _ = self._remove(edit_id, turn=0)
        return Turn(edit_id, at)

    def remove(self, edit_id: str) -> None:
        """It waits no more, and its tenant's latest turn is given up. Nothing happens where it does not wait."""
        if edit_id in self._entries:
            self._remove(edit_id, turn=-1)

    def _remove(self, edit_id: str, turn: int) -> tuple[float, int]:
        tenant, entry = self._entries.pop(edit_id)
        line = self._lines[tenant]
        line.entries.remove(entry)
        used = line.turns.pop(turn)
        if not line.entries:
            del self._lines[tenant]
        return used
