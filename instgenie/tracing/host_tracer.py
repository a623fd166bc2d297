"""A tracer that gives spans to OpenTelemetry, where the program that hosts the engine configured it.

OpenTelemetry is no dependency: who configures it has it.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from opentelemetry import trace

from instgenie import __version__
from instgenie.tracing.clock import at_ns, now_ns
from instgenie.tracing.tracer import Attribute, Span


def find_host_tracer() -> HostTracer | None:
    """The tracer of the provider that was set for this process, if one was."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    return HostTracer(provider.get_tracer("instgenie", __version__))


class HostTracer:
    """See `Tracer`. Events and counters become events of the span that the thread is in, tracks an attribute."""

    is_on = True

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def span(self, name: str, /, **attributes: Attribute) -> Span:
        """See `Tracer`."""
        return _HostSpan(self._tracer, name, attributes)

    def add_span(
        self, name: str, started: float, seconds: float, /, *, track: str | None = None, **attributes: Attribute
    ) -> None:
        """See `Tracer`."""
        row: dict[str, Attribute] = _this_thread() if track is None else {"instgenie.track": track}
        span = self._tracer.start_span(name, attributes=attributes | row, start_time=at_ns(started))
        span.end(at_ns(started + seconds))

    def event(self, name: str, /, **attributes: Attribute) -> None:
        """See `Tracer`."""
        trace.get_current_span().add_event(name, attributes, now_ns())

    def count(self, name: str, /, **values: float) -> None:
        """See `Tracer`."""
        trace.get_current_span().add_event(name, values, now_ns())


class _HostSpan:
    __slots__ = ("_attributes", "_name", "_span", "_tracer", "_use")

    def __init__(self, tracer: trace.Tracer, name: str, attributes: dict[str, Attribute]) -> None:
        self._tracer, self._name, self._attributes = tracer, name, attributes
        self._span: trace.Span = trace.INVALID_SPAN
        self._use: AbstractContextManager[trace.Span]

    def set(self, **attributes: Attribute) -> None:
        self._span.set_attributes(attributes)

    def __enter__(self) -> Self:
        self._span = self._tracer.start_span(
            self._name, attributes=self._attributes | _this_thread(), start_time=now_ns()
        )
        self._use = trace.use_span(self._span)
        self._use.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._use.__exit__(kind, error, traceback)
        finally:
            self._span.end(now_ns())


def _this_thread() -> dict[str, Attribute]:
    """By OpenTelemetry's conventions."""
    thread = threading.current_thread()
    return {"thread.id": thread.native_id or 0, "thread.name": thread.name}
