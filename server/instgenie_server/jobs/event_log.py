"""What happened to one job, as numbered events: bounded, without I/O.

An event's id is larger than that of everything before it, also of what happened before a restart of the server:
`generation` counts the starts. The end has the largest id there is, always the same one. So whatever id a client
resumes with, before or after a restart, the end is later than it, unless the end is what it has seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from instgenie_server.jobs.job import Job

END_ID = (1 << 53) - 1  # the largest that JavaScript tells from its neighbours
_BITS_OF_NUMBER = 24  # leaves 2**29 starts
MAX_EVENTS = 64


class EventKind(StrEnum):
    """What happened; the last four are ends and bear the names of the states."""

    QUEUED = "queued"
    STARTED = "started"
    STEP = "step"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One event.

    Attributes:
        data: JSON. queued: position. started: attempt. step: step, steps. Ends: the job's `detail`.
        preview: of a step, a file in the order's format.
    """

    id: int
    kind: EventKind
    data: Mapping[str, Any]
    preview: bytes | None = None


def end_event(job: Job) -> JobEvent:
    """The end of a job that has one."""
    assert job.state.is_end
    return JobEvent(END_ID, EventKind(job.state), job.detail)


def parse_event_id(text: str | None) -> int | None:
    """The id in a `Last-Event-ID` header; None for none and for what is none of ours."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > len(str(END_ID)):
        return None
    return int(text)


@dataclass(slots=True)
class EventLog:
    """The events of one job that are still of interest.

    Only the newest of the queued events and of the previews are kept, and `MAX_EVENTS` in all: older steps make room.
    """

    generation: int
    events: list[JobEvent] = field(default_factory=list)
    count: int = 0

    @property
    def is_ended(self) -> bool:
        """Whether the end is in it: nothing follows."""
        return bool(self.events) and self.events[-1].id == END_ID

    def append(self, kind: EventKind, data: Mapping[str, Any], preview: bytes | None = None) -> None:
        """Add an event; after the end it is ignored, and so is a position told twice in a row."""
        newest = self.events[-1] if self.events else None
        if self.is_ended or (newest is not None and kind is newest.kind is EventKind.QUEUED and data == newest.data):
            return
        self.count += 1
        if kind is EventKind.QUEUED:
            self.events = [event for event in self.events if event.kind is not EventKind.QUEUED]
        if preview is not None:
            self._drop_previews()
        self.events.append(JobEvent((self.generation << _BITS_OF_NUMBER) + self.count, kind, data, preview))
        self._make_room()

    def end(self, job: Job) -> None:
        """Add the end; a second one is ignored."""
        if not self.is_ended:
            self._drop_previews()
            self.events.append(end_event(job))
            self._make_room()

    def later_than(self, seen: int) -> list[JobEvent]:
        """What came after the event of that id."""
        return [event for event in self.events if event.id > seen]

    def resume_after(self, last_seen: int | None) -> int:
        """The id to go on from for a client that names the last one it saw: 0 for one that cannot have seen it."""
        newest = END_ID if self.is_ended else (self.generation << _BITS_OF_NUMBER) + self.count
        return last_seen if last_seen is not None and last_seen <= newest else 0

    def _drop_previews(self) -> None:
        self.events = [replace(event, preview=None) for event in self.events]

    def _make_room(self) -> None:
        if len(self.events) > MAX_EVENTS:
            steps = (i for i, event in enumerate(self.events) if event.kind is EventKind.STEP)
            oldest = next(steps, None)
            if oldest is not None:
                del self.events[oldest]
