"""An edit as the scheduler sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from instgenie.sched.task import EditTask, Route

# waiting: for its encoding. opening: being encoded, or its template looked up. ready: waits for its admission. running:
# takes steps. parked: cannot read what its template's lane has made so far, and waits until the template is complete.
# finished: waits for its decoding. decoding: being decoded, and gone after that.
Phase = Literal["waiting", "opening", "ready", "running", "parked", "finished", "decoding"]


@dataclass(slots=True)
class TrackedEdit:
    """Attributes:
    template: whose records, or whose lane, serve it.
    first_step: the template's step that its first step needs.
    taken: steps.
    turn: its place in line, from its encoding on.
    number: of its admission, counted over all edits.
    """

    task: EditTask
    phase: Phase = "waiting"
    route: Route = "records"
    template: str = ""
    first_step: int = 0
    taken: int = 0
    turn: float = 0.0
    number: int = 0

    @property
    def rows(self) -> int:
        """Tokens that its next step computes."""
        return self.task.rows("dense" if self.taken in self.task.refresh_steps else self.route)

    @property
    def usual_rows(self) -> int:
        """Tokens that its steps compute on average, rounded up: what its tenant is charged for each."""
        task, refreshes = self.task, len(self.task.refresh_steps)
        usual = task.rows(self.route)
        computed = task.steps - len(task.extrapolated_steps)
        return -(-(computed * usual + refreshes * (task.rows("dense") - usual)) // task.steps)

    @property
    def has_refreshes_left(self) -> bool:
        """Whether it will compute all tokens at its next step or a later one, to correct the records."""
        return any(step >= self.taken for step in self.task.refresh_steps)

    @property
    def steps_left(self) -> int:
        """Steps that it has to take."""
        return self.task.steps - self.taken

    @property
    def computed_left(self) -> int:
        """Of them, those that will be computed."""
        return self.steps_left - sum(step >= self.taken for step in self.task.extrapolated_steps)

    @property
    def template_step(self) -> int:
        """The template's step that its next step needs."""
        return self.first_step + self.taken
