"""Where a process's spans go: nowhere, into a file, to the program that hosts it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instgenie.errors import ParameterError
from instgenie.tracing import NO_TRACE, current_tracer, open_trace
from tests.instgenie.tracing.traces import events_of, named, run_program

OFF = """
import sys
from instgenie.tracing import current_tracer
with current_tracer().span("compute", batch=4) as span:
    span.set(rows=7)
current_tracer().add_span("load wait", 1.0, 2.0)
current_tracer().event("cancelled")
current_tracer().count("batch", edits=1)
print(*sorted(name for name in sys.modules if name.partition(".")[0] in {"opentelemetry", "torch"}))
"""

API_ALONE = """
import sys
from opentelemetry import trace
from instgenie.tracing import NO_TRACE, current_tracer
with current_tracer().span("compute"):
    pass
print(current_tracer() is NO_TRACE, "opentelemetry.sdk" in sys.modules)
"""

HOSTED = """
import json, pathlib, sys
from instgenie.tracing import NO_TRACE, current_tracer, open_trace
assert current_tracer() is NO_TRACE
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
with current_tracer().span("encode"):
    pass
with open_trace(pathlib.Path(sys.argv[1])) as tracer:
    assert tracer is current_tracer()
    with tracer.span("compute", batch=4) as span:
        span.set(rows=7)
        tracer.count("batch", edits=3)
        tracer.event("cancelled")
    tracer.add_span("load wait", 1.0, 2.0, track="device")
with current_tracer().span("decode"):
    pass
told = exporter.get_finished_spans()
print(json.dumps([[s.name, s.instrumentation_scope.name, [e.name for e in s.events]] for s in told]))
"""


def test_off_nothing_is_kept_and_nothing_imported() -> None:
    assert current_tracer() is NO_TRACE
    assert not NO_TRACE.is_on
    assert NO_TRACE.span("compute", batch=4) is NO_TRACE.span("update")  # nothing is made
    ran = run_program(OFF)
    assert (ran.returncode, ran.stdout.split(), ran.stderr) == (0, [], "")


def test_off_an_error_goes_on() -> None:
    with pytest.raises(ZeroDivisionError), NO_TRACE.span("compute"):
        _ = 1 / 0


def test_opentelemetry_that_nobody_configured() -> None:
    ran = run_program(API_ALONE)
    assert (ran.stdout.split(), ran.stderr) == (["True", "False"], "")


def test_a_file_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with open_trace(path, "replica 3") as tracer:
        assert tracer is current_tracer()
        assert tracer.is_on
        with current_tracer().span("compute", batch=4):
            pass
    assert current_tracer() is NO_TRACE
    events = events_of(path)
    assert named(events, "process_name")["args"] == {"name": "replica 3"}
    assert named(events, "compute")["args"] == {"batch": 4}


def test_a_trace_ends_with_an_error_of_what_is_traced(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_trace(tmp_path / "trace.json"):
        _ = 1 / 0
    assert current_tracer() is NO_TRACE
    assert events_of(tmp_path / "trace.json")


def test_one_file_at_a_time(tmp_path: Path) -> None:
    with open_trace(tmp_path / "one.json") as first:
        with pytest.raises(ParameterError, match=r"two\.json: another trace is being written"):
            open_trace(tmp_path / "two.json").__enter__()
        assert current_tracer() is first
    assert not (tmp_path / "two.json").exists()


def test_a_file_that_cannot_be_made_leaves_tracing_off(tmp_path: Path) -> None:
    with pytest.raises(ParameterError):
        open_trace(tmp_path).__enter__()
    assert current_tracer() is NO_TRACE


def test_a_host_that_traces_gets_spans_with_a_file_or_without(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    ran = run_program(HOSTED, path)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [
        ["encode", "instgenie", []],
        ["compute", "instgenie", ["batch", "cancelled"]],
        ["load wait", "instgenie", []],
        ["decode", "instgenie", []],
    ]
    events = events_of(path)
    assert named(events, "compute")["args"] == {"batch": 4, "rows": 7}
    assert {event["name"] for event in events if event["ph"] != "M"} == {"compute", "batch", "cancelled", "load wait"}
