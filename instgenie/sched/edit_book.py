"""Which edits there are, by phase."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import get_args

from instgenie.sched.task import EditTask
from instgenie.sched.tracked_edit import Phase, TrackedEdit


@dataclass(frozen=True, slots=True)
class Counts:
    """Edits by phase, and lanes.

    Attributes:
        opening: being encoded, or their template looked up.
        ready: that wait for their admission.
        running: that take steps; parked: admitted, but waiting for their template's lane.
        finishing: whose steps are done, until they are decoded.
        lanes: not committed yet, but for waiting_lanes: warm-ups whose turn has not come.
    """

    waiting: int = 0
    opening: int = 0
    ready: int = 0
    running: int = 0
    parked: int = 0
    finishing: int = 0
    lanes: int = 0
    waiting_lanes: int = 0


class EditBook:
    """Edits by id, and those of each phase in the order in which they came to it.

    Attributes:
        changes: how often an edit came, left, or went from one phase to another.
    """

    def __init__(self) -> None:
        self._edits: dict[str, TrackedEdit] = {}
        self._phases: dict[Phase, dict[str, TrackedEdit]] = {phase: {} for phase in get_args(Phase)}
        self._num_bytes = 0
        self.changes = 0

    @property
    def num_bytes(self) -> int:
        """Of device memory that edits hold: all but those that wait."""
        return self._num_bytes

    def get(self, edit_id: str) -> TrackedEdit | None:
        """The edit; None where it is not known."""
        return self._edits.get(edit_id)

    def __getitem__(self, edit_id: str) -> TrackedEdit:
        """The edit, which has to be known."""
        return self._edits[edit_id]

    def known(self, edit_ids: Iterable[str]) -> list[TrackedEdit]:
        """Those of them that are known."""
        return [edit for edit_id in edit_ids if (edit := self._edits.get(edit_id))]

    def of(self, phase: Phase) -> Collection[TrackedEdit]:
        """Edits of a phase; the collection follows what happens to them."""
        return self._phases[phase].values()

    def add(self, task: EditTask) -> TrackedEdit:
        """A new edit, which waits.

        Raises:
            ValueError: its id is known.
        """
        if task.id in self._edits:
            raise ValueError(f"edit {task.id!r} was submitted already")
        self.changes += 1
        edit = self._edits[task.id] = self._phases["waiting"][task.id] = TrackedEdit(task)
        return edit

    def move(self, edit: TrackedEdit, phase: Phase) -> None:
        """Put it into another phase."""
        self._leave(edit)
        edit.phase = phase
        self._phases[phase][edit.task.id] = edit
        if phase != "waiting":
            self._num_bytes += edit.task.num_bytes

    def remove(self, edit: TrackedEdit) -> None:
        """It is over."""
        self._leave(edit)
        del self._edits[edit.task.id]

    def counts(self, *, lanes: int, waiting_lanes: int) -> Counts:
        """How many there are."""
        sizes = {phase: len(edits) for phase, edits in self._phases.items()}
        return Counts(
            waiting=sizes["waiting"],
            opening=sizes["opening"],
            ready=sizes["ready"],
            running=sizes["running"],
            parked=sizes["parked"],
            finishing=sizes["finished"] + sizes["decoding"],
            lanes=lanes,
            waiting_lanes=waiting_lanes,
        )

    def _leave(self, edit: TrackedEdit) -> None:
        self.changes += 1
        del self._phases[edit.phase][edit.task.id]
        if edit.phase != "waiting":
            self._num_bytes -= edit.task.num_bytes
