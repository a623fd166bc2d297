"""A tracer that writes a trace file."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from instgenie.tracing.clock import at_ns, now_ns
from instgenie.tracing.trace_event import TraceEvent, Track
from instgenie.tracing.trace_file import TraceFile
from instgenie.tracing.tracer import Attribute, Span


class FileTracer:
    """See `Tracer`."""

    is_on = True

    def __init__(self, file: TraceFile) -> None:
        self._file = file

    def span(self, name: str, /, **attributes: Attribute) -> Span:
        """See `Tracer`."""
        return _FileSpan(self._file, name, attributes)

    def add_span(
        self, name: str, started: float, seconds: float, /, *, track: str | None = None, **attributes: Attribute
    ) -> None:
        """See `Tracer`."""
        start_ns = at_ns(started)
        duration_ns = at_ns(started + seconds) - start_ns
        row = _this_thread() if track is None else Track(track)
        self._file.put(TraceEvent("X", name, start_ns, duration_ns, row, attributes))

    def event(self, name: str, /, **attributes: Attribute) -> None:
        """See `Tracer`."""
        self._file.put(TraceEvent("i", name, now_ns(), 0, _this_thread(), attributes))

    def count(self, name: str, /, **values: float) -> None:
        """See `Tracer`."""
        self._file.put(TraceEvent("C", name, now_ns(), 0, _this_thread(), values))


class _FileSpan:
    __slots__ = ("_attributes", "_file", "_name", "_start_ns")

    def __init__(self, file: TraceFile, name: str, attributes: dict[str, Attribute]) -> None:
        self._file, self._name, self._attributes = file, name, attributes
        self._start_ns = 0

    def set(self, **attributes: Attribute) -> None:
        self._attributes.update(attributes)

    def __enter__(self) -> Self:
        self._start_ns = now_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        duration_ns = now_ns() - self._start_ns
        if kind is not None:
            self._attributes["error"] = kind.__name__
        self._file.put(TraceEvent("X", self._name, self._start_ns, duration_ns, _this_thread(), self._attributes))


def _this_thread() -> Track:
    thread = threading.current_thread()
    return Track(thread.name, thread.native_id)
