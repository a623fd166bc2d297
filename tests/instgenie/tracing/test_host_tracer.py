"""Spans that go to OpenTelemetry, as an exporter of the host program gets them."""

from __future__ import annotations

import threading
import time

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from instgenie.errors import ReplicaError
from instgenie.tracing.clock import at_ns
from instgenie.tracing.host_tracer import HostTracer


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter) -> HostTracer:
    provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return HostTracer(provider.get_tracer("test"))


def ends(span: ReadableSpan) -> tuple[int, int]:
    """Start and end in ns since 1970."""
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


def test_spans_know_what_they_lie_in(tracer: HostTracer, exporter: InMemorySpanExporter) -> None:
    with tracer.span("step", number=17) as span:
        with tracer.span("compute", batch=4):
            tracer.event("cancelled", edit="a")
        tracer.count("batch", edits=3)
        span.set(tokens=900)
    compute, step = exporter.get_finished_spans()
    assert (compute.name, step.name) == ("compute", "step")
    assert compute.parent is not None
    assert compute.parent.span_id == step.context.span_id
    assert step.parent is None
    thread = {"thread.id": threading.get_native_id(), "thread.name": threading.current_thread().name}
    assert step.attributes == {"number": 17, "tokens": 900, **thread}
    assert compute.attributes == {"batch": 4, **thread}
    assert [(event.name, event.attributes) for event in compute.events] == [("cancelled", {"edit": "a"})]
    assert [(event.name, event.attributes) for event in step.events] == [("batch", {"edits": 3})]
    assert ends(step)[0] <= ends(compute)[0] <= compute.events[0].timestamp <= ends(compute)[1] <= ends(step)[1]
    assert abs(ends(step)[0] - time.time_ns()) < 60e9


def test_a_span_that_is_known_afterwards(tracer: HostTracer, exporter: InMemorySpanExporter) -> None:
    started = time.perf_counter() - 0.5
    tracer.add_span("load wait", started, 0.25, step=3)
    tracer.add_span("kernels", started, 0.25, track="device")
    wait, kernels = exporter.get_finished_spans()
    assert ends(wait) == (at_ns(started), at_ns(started + 0.25))
    assert (wait.attributes or {})["step"] == 3
    assert kernels.attributes == {"instgenie.track": "device"}


def test_an_error_ends_a_span_and_goes_on(tracer: HostTracer, exporter: InMemorySpanExporter) -> None:
    with pytest.raises(ReplicaError), tracer.span("compute"):
        raise ReplicaError("gone")
    (compute,) = exporter.get_finished_spans()
    assert not compute.status.is_ok
    assert compute.events[0].name == "exception"


def test_events_outside_of_spans_are_lost(tracer: HostTracer, exporter: InMemorySpanExporter) -> None:
    tracer.event("cancelled")
    tracer.count("batch", edits=3)
    assert exporter.get_finished_spans() == ()
