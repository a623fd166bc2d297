"""The tracer of this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from instgenie.errors import ParameterError
from instgenie.tracing.file_tracer import FileTracer
from instgenie.tracing.trace_file import TraceFile
from instgenie.tracing.tracer import NO_TRACE, Tracer
from instgenie.tracing.two_tracers import TwoTracers

_opened: Tracer | None = None
_host: Tracer | None = None


def current_tracer() -> Tracer:
    """Where spans go now: the open trace file, the OpenTelemetry provider that the host program set, both or neither.

    Ask anew for each step or order: tracing may begin and end while the process runs.
    """
    return _opened or _host_tracer()


@contextmanager
def open_trace(path: Path, process: str = "instgenie") -> Iterator[Tracer]:
    """Write a trace file meanwhile, for all threads of the process. One that exists is replaced.

    Args:
        process: what the file calls this process.

    Raises:
        ParameterError: the file cannot be written, or another one is being written.
    """
    global _opened
    if _opened is not None:
        raise ParameterError("trace", f"{path}: another trace is being written")
    host, file = _host_tracer(), TraceFile(path, process)
    _opened = FileTracer(file) if host is NO_TRACE else TwoTracers(host, FileTracer(file))
    try:
        yield _opened
    finally:
        _opened = None
        file.close()


def _host_tracer() -> Tracer:
    """Whoever set a provider has imported OpenTelemetry, so that nothing is imported for those who did not."""
    global _host
    if _host is None and "opentelemetry.trace" in sys.modules:
        from instgenie.tracing.host_tracer import find_host_tracer

        _host = find_host_tracer()
    return _host or NO_TRACE
