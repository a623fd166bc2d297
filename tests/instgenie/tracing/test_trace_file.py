"""A trace file, however it ends."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from instgenie.errors import ParameterError
from instgenie.tracing.clock import now_ns
from instgenie.tracing.trace_event import TraceEvent, Track
from instgenie.tracing.trace_file import TraceFile
from tests.instgenie.tracing.traces import events_of, named, run_program, track_names

RUNNER = Track("replica", 100)

KILLED = """
import os, pathlib, signal, sys, threading
from instgenie.tracing import open_trace
path = pathlib.Path(sys.argv[1])
with open_trace(path) as tracer:
    for step in range(5):
        with tracer.span("compute", step=step):
            pass
    while path.read_bytes().count(b"compute") < 5:
        threading.Event().wait(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
"""

LEFT_OPEN = """
import pathlib, sys
from instgenie.tracing import open_trace
trace = open_trace(pathlib.Path(sys.argv[1]))
trace.__enter__().event("last")
"""

FULL_DISK = """
import logging, pathlib, resource, sys, threading
from instgenie.tracing import open_trace
failed = threading.Event()
class Handler(logging.StreamHandler):
    def emit(self, record):
        super().emit(record)
        failed.set()
logging.getLogger().addHandler(Handler())
path = pathlib.Path(sys.argv[1])
with open_trace(path) as tracer:
    tracer.event("early")
    while "early" not in path.read_text():
        threading.Event().wait(0.01)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 500, resource.RLIM_INFINITY))
    with tracer.span("lost" * 200):
        tracer.add_span("lost", 1.0, 2.0, track="device")
    assert failed.wait(30)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    tracer.add_span("late", 3.0, 4.0, track="device")
"""


def put(file: TraceFile, name: str, track: Track = RUNNER) -> None:
    file.put(TraceEvent("X", name, now_ns(), 1000, track, {}))


def test_a_closed_file_is_an_array(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text("something older and longer" * 100)
    file = TraceFile(path, "replica 3")
    put(file, "compute")
    file.close()
    events = events_of(path)
    assert {event["pid"] for event in events} == {os.getpid()}
    assert named(events, "process_name")["args"] == {"name": "replica 3"}
    assert named(events, "compute")["tid"] == 100
    assert track_names(events) == {100: "replica"}
    assert path.read_text().count("\n") == 1 + len(events) + 1  # [, a line each, ]


def test_an_empty_trace(tmp_path: Path) -> None:
    TraceFile(tmp_path / "trace.json", "replica").close()
    assert [event["name"] for event in events_of(tmp_path / "trace.json")] == ["process_name"]


def test_a_number_that_the_system_gave_to_another_thread(tmp_path: Path) -> None:
    file = TraceFile(tmp_path / "trace.json", "replica")
    for name, track in (("old", RUNNER), ("new", Track("loader", 100)), ("other", Track("device"))):
        put(file, name, track)
    put(file, "again", RUNNER)
    file.close()
    events = events_of(tmp_path / "trace.json")
    names = track_names(events)
    assert {event["name"]: names[event["tid"]] for event in events if event["ph"] == "X"} == {
        "old": "replica",
        "new": "loader",
        "other": "device",
        "again": "replica",
    }
    assert len(names) == 3


def test_what_finds_no_room_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = TraceFile(tmp_path / "trace.json", "replica", most_waiting=3)
    for number in range(1000):
        put(file, f"step {number}")
    file.close()
    events = events_of(tmp_path / "trace.json")
    kept = [event["name"] for event in events if event["ph"] == "X"]
    assert kept[:3] == ["step 0", "step 1", "step 2"]
    dropped = named(events, "events dropped")["args"]["count"]
    assert dropped > 0
    assert len(kept) + dropped == 1000
    assert f"lacks {dropped} events" in caplog.text


def test_more_events_than_are_written_at_a_time(tmp_path: Path) -> None:
    file = TraceFile(tmp_path / "trace.json", "replica")
    for number in range(5000):
        put(file, f"step {number}")
    file.close()
    kept = [event["name"] for event in events_of(tmp_path / "trace.json") if event["ph"] == "X"]
    assert kept == [f"step {number}" for number in range(5000)]


def test_after_closing_nothing_happens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "trace.json"
    file = TraceFile(path, "replica")
    file.close()
    before = path.read_bytes()
    put(file, "late")
    file.close()
    assert path.read_bytes() == before
    assert not caplog.records


def test_a_killed_process_leaves_all_but_the_bracket(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    assert run_program(KILLED, path).returncode == -signal.SIGKILL
    text = path.read_text()
    assert not text.rstrip().endswith("]")
    events = json.loads(text + "]")
    assert [event["args"]["step"] for event in events if event["name"] == "compute"] == [0, 1, 2, 3, 4]


def test_what_a_killed_process_left_is_kept_under_another_name(tmp_path: Path) -> None:
    """It may tell why it died; a file that was closed is replaced."""
    path = tmp_path / "trace.json"
    run_program(KILLED, path)
    left = path.read_bytes()
    for _ in range(2):
        TraceFile(path, "the next one").close()
    (kept,) = set(tmp_path.iterdir()) - {path}
    assert (kept.read_bytes(), kept.suffix) == (left, ".json")
    assert json.loads(path.read_text())


def test_a_process_that_ends_without_closing(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    ran = run_program(LEFT_OPEN, path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert named(events_of(path), "last")["ph"] == "i"


def test_a_full_disk_costs_events_only(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    ran = run_program(FULL_DISK, path)
    assert ran.returncode == 0, ran.stderr
    events = events_of(path)
    assert track_names(events)[named(events, "early")["tid"]] == "MainThread"
    assert track_names(events)[named(events, "late")["tid"]] == "device"
    dropped = named(events, "events dropped")["args"]["count"]
    assert dropped in (1, 2)  # the short one may have been written before the long one came
    assert len([event for event in events if event["name"] == "lost"]) == 2 - dropped
    assert ran.stderr.count("cannot be written: ") == 1
    assert f"lacks {dropped} events" in ran.stderr


@pytest.mark.parametrize(("name", "reason"), [("", "Is a directory"), ("none/trace.json", "No such file or directory")])
def test_a_file_that_cannot_be_made(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ParameterError, match=f"cannot be written: {reason}") as raised:
        TraceFile(tmp_path / name, "replica")
    assert raised.value.parameter == "trace"


def test_a_disk_that_is_full_from_the_start() -> None:
    with pytest.raises(ParameterError, match="/dev/full: cannot be written: No space left"):
        TraceFile(Path("/dev/full"), "replica")
