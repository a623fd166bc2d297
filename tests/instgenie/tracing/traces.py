"""Reading trace files, and running a program that writes one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

Event = dict[str, Any]


def events_of(path: Path) -> list[Event]:
    """Everything in a file that was closed."""
    events = json.loads(path.read_text())
    assert isinstance(events, list)
    return events


def named(events: list[Event], name: str) -> Event:
    """The one event of this name."""
    (event,) = [event for event in events if event["name"] == name]
    return event


def track_names(events: list[Event]) -> dict[int, str]:
    """Names of tracks by number."""
    return {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}


def is_inside(inner: Event, outer: Event) -> bool:
    """Whether one span is drawn inside the other."""
    return bool(
        inner["tid"] == outer["tid"]
        and outer["ts"] <= inner["ts"]
        and inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"]
    )


def run_program(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program in another process."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
