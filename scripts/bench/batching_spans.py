"""What a trace of a replica says about its steps. Pure, but for `read_events`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

RUNNER = "runner"  # the thread that takes the steps
_STAGES = frozenset({"encode", "preview", "decode"})


@dataclass(frozen=True, slots=True)
class Event:
    """A span, or what took no time; milliseconds on the trace's clock."""

    name: str
    start_ms: float
    end_ms: float
    track: str = RUNNER
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Join:
    """How an edit came to run beside others.

    Attributes:
        steps: that the others began after it came and before its own first one; 0 is the very next step.
        steps_encoded: of them, those begun after it was encoded.
        ms: from its arrival to the start of its first step.
        step_ms: of the others' steps, at the time.
    """

    steps: int
    steps_encoded: int
    ms: float
    step_ms: float


@dataclass(frozen=True, slots=True)
class Gap:
    """Milliseconds of the runner between two forwards with nothing but steps in between.

    Attributes:
        advance: the edits' latents take the step: work in proportion to their tokens.
        update: what came of the step is noted, and told to the scheduler and to those who wait.
        schedule: messages are read, and what goes into the next step is decided.
        assemble: records of the next step are looked up.
        inputs: the next forward's inputs are put together.
    """

    advance: float
    update: float
    schedule: float
    assemble: float
    inputs: float

    @property
    def before_step(self) -> float:
        """What is done before a step: `schedule`, `assemble` and `inputs`."""
        return self.schedule + self.assemble + self.inputs

    @property
    def total(self) -> float:
        """All of it."""
        return self.advance + self.update + self.schedule + self.assemble + self.inputs


def read_events(path: Path) -> list[Event]:
    """Those of a trace file that is complete, by their start."""
    lines: list[dict[str, Any]] = json.loads(path.read_text())
    tracks = {line["tid"]: line["args"]["name"] for line in lines if line["name"] == "thread_name"}
    events = [
        Event(
            line["name"],
            line["ts"] / 1000,
            (line["ts"] + line.get("dur", 0)) / 1000,
            tracks[line["tid"]],
            line.get("args", {}),
        )
        for line in lines
        if line["ph"] in ("X", "i")
    ]
    return sorted(events, key=lambda event: event.start_ms)


def find_join(events: Sequence[Event], arrived_ms: float, beside: int) -> Join | None:
    """How the edit that came then joined a batch of `beside` edits; None where these ended before it was done.

    Args:
        events: by their start.
    """
    later = [event for event in events if event.track == RUNNER and event.start_ms >= arrived_ms]
    steps = [event for event in later if event.name == "compute"]
    first = next((n for n, step in enumerate(steps) if step.values["edits"] == beside + 1), None)
    encoded = next((event for event in later if event.name == "encode"), None)
    before = steps[:first]
    if first is None or encoded is None or any(step.values["edits"] != beside for step in before):
        return None
    times = sorted(step.end_ms - step.start_ms for step in steps[: first + 1])
    return Join(
        steps=len(before),
        steps_encoded=sum(step.start_ms >= encoded.end_ms for step in before),
        ms=steps[first].start_ms - arrived_ms,
        step_ms=times[len(times) // 2],
    )


def find_gaps(events: Sequence[Event], edits: int) -> list[Gap]:
    """What was between two steps of the same `edits` edits, where no picture was encoded or decoded in between.

    Args:
        events: by their start.
    """
    turns: list[dict[str, Event]] = []
    for event in (event for event in events if event.track == RUNNER):
        if event.name == "schedule":
            turns.append({})
        if turns:
            turns[-1][event.name] = event
    gaps = []
    for turn, following in pairwise(turns):
        if _is_step_of(turn, edits) and _is_step_of(following, edits) and not _STAGES & following.keys():
            times = (
                turn["forward"].end_ms,
                turn["compute"].end_ms,
                turn["update"].end_ms,
                following["schedule"].end_ms,
                following["compute"].start_ms,
                following["forward"].start_ms,
            )
            gaps.append(Gap(*(end - start for start, end in pairwise(times))))
    return gaps


def step_times(events: Sequence[Event], edits: int) -> list[float]:
    """Milliseconds of the steps of so many edits, and of no lane."""
    return [event.end_ms - event.start_ms for event in events if event.name == "compute" and _has_only(event, edits)]


def _is_step_of(turn: dict[str, Event], edits: int) -> bool:
    """Whether a turn of the runner took a step of so many edits, and of no lane."""
    return {"compute", "forward", "update"} <= turn.keys() and _has_only(turn["compute"], edits)


def _has_only(compute: Event, edits: int) -> bool:
    return (compute.values["edits"], compute.values["lanes"]) == (edits, 0)
