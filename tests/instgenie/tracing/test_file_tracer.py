"""What is told to a tracer, found in its file."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from instgenie.errors import ReplicaError
from instgenie.tracing.file_tracer import FileTracer
from instgenie.tracing.trace_file import TraceFile
from tests.instgenie.tracing.traces import Event, events_of, is_inside, named, track_names


class Traced:
    """A tracer and what it wrote."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = TraceFile(path, "replica")
        self.tracer = FileTracer(self._file)

    def events(self) -> list[Event]:
        """Ends the trace."""
        self._file.close()
        return events_of(self._path)


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Traced]:
    traced = Traced(tmp_path / "trace.json")
    yield traced
    traced.events()


def test_spans_lie_inside_one_another_and_beside(traced: Traced) -> None:
    before_us = time.time_ns() // 1000
    with traced.tracer.span("step", number=17) as step:
        with traced.tracer.span("schedule"):
            pass
        with traced.tracer.span("compute", batch=4, rows=812):
            step.set(tokens=900)
    events = traced.events()
    whole, schedule, compute = (named(events, name) for name in ("step", "schedule", "compute"))
    assert is_inside(schedule, whole)
    assert is_inside(compute, whole)
    assert schedule["ts"] + schedule["dur"] <= compute["ts"]
    assert (whole["args"], compute["args"]) == ({"number": 17, "tokens": 900}, {"batch": 4, "rows": 812})
    assert whole["pid"] == os.getpid()
    assert abs(whole["ts"] - before_us) < 60e6  # the time of day, as other processes' traces have it


def test_a_span_that_is_known_afterwards(traced: Traced) -> None:
    with traced.tracer.span("compute"):
        started = time.perf_counter()
        traced.tracer.add_span("load wait", started, time.perf_counter() - started, step=3)
    traced.tracer.add_span("kernels", started, 0.25, track="device")
    events = traced.events()
    wait, kernels = named(events, "load wait"), named(events, "kernels")
    assert is_inside(wait, named(events, "compute"))
    assert wait["args"] == {"step": 3}
    assert kernels["dur"] in (249_999, 250_000, 250_001)
    assert track_names(events)[kernels["tid"]] == "device"
    assert kernels["tid"] != wait["tid"]


def test_an_error_ends_a_span_and_goes_on(traced: Traced) -> None:
    with pytest.raises(ReplicaError), traced.tracer.span("compute", batch=4):
        raise ReplicaError("gone")
    assert named(traced.events(), "compute")["args"] == {"batch": 4, "error": "ReplicaError"}


def test_counters_and_events(traced: Traced) -> None:
    traced.tracer.count("batch", edits=3, lanes=1)
    traced.tracer.event("cancelled", edit="a")
    events = traced.events()
    assert (named(events, "batch")["ph"], named(events, "batch")["args"]) == ("C", {"edits": 3, "lanes": 1})
    assert (named(events, "cancelled")["ph"], named(events, "cancelled")["args"]) == ("i", {"edit": "a"})


def test_each_thread_has_a_track_with_its_name(traced: Traced) -> None:
    meet = threading.Barrier(3)

    def work(number: int) -> int:
        with traced.tracer.span(f"work {number}"):
            meet.wait(30)
        return threading.get_native_id()

    with ThreadPoolExecutor(3, "stage") as pool:
        threads = list(pool.map(work, range(3)))
    events = traced.events()
    assert [named(events, f"work {number}")["tid"] for number in range(3)] == threads
    names = track_names(events)
    assert {names[thread] for thread in threads} == {"stage_0", "stage_1", "stage_2"}
