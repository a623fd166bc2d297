"""An event of a trace, and how it is written in the Chrome trace format, which Perfetto reads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from instgenie.tracing.tracer import Attribute


@dataclass(frozen=True, slots=True)
class Track:
    """A row of spans.

    Attributes:
        thread: the system's number of the thread; None where it is no thread's.
    """

    name: str
    thread: int | None = None


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """Something that happened.

    Attributes:
        kind: as the format calls it: X is a span, i took no time, C is a counter.
        start_ns: since 1970.
    """

    kind: Literal["X", "i", "C"]
    name: str
    start_ns: int
    duration_ns: int
    track: Track
    attributes: Mapping[str, Attribute]


def event_json(event: TraceEvent, pid: int, tid: int) -> str:
    """One line.

    Times are whole microseconds: those since 1970 with a fraction are more than a double holds, and both ends of a span
    are cut alike, so that spans which lie inside one another still do.
    """
    start_us = event.start_ns // 1000
    fields: dict[str, Any] = {"name": event.name, "ph": event.kind, "ts": start_us, "pid": pid, "tid": tid}
    if event.kind == "X":
        fields["dur"] = (event.start_ns + event.duration_ns) // 1000 - start_us
    elif event.kind == "i":
        fields["s"] = "t"  # drawn on its track alone
    if event.attributes:
        fields["args"] = {name: _plain(value) for name, value in event.attributes.items()}
    return json.dumps(fields, separators=(",", ":"))


def name_json(kind: Literal["process_name", "thread_name"], name: str, pid: int, tid: int) -> str:
    """One line that names a process or a track."""
    return json.dumps({"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}, separators=(",", ":"))


def _plain(value: object) -> object:
    """What JSON has a word for: not NaN, infinity or numbers of numpy."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | bool | int | float) else str(value)
