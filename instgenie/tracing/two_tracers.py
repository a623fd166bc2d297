"""Two tracers as one: a trace file is written where the program that hosts the engine traces, too."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from instgenie.tracing.tracer import Attribute, Span, Tracer


class TwoTracers:
    """See `Tracer`."""

    is_on = True

    def __init__(self, first: Tracer, second: Tracer) -> None:
        self._first, self._second = first, second

    def span(self, name: str, /, **attributes: Attribute) -> Span:
        """See `Tracer`."""
        return _TwoSpans(self._first.span(name, **attributes), self._second.span(name, **attributes))

    def add_span(
        self, name: str, started: float, seconds: float, /, *, track: str | None = None, **attributes: Attribute
    ) -> None:
        """See `Tracer`."""
        self._first.add_span(name, started, seconds, track=track, **attributes)
        self._second.add_span(name, started, seconds, track=track, **attributes)

    def event(self, name: str, /, **attributes: Attribute) -> None:
        """See `Tracer`."""
        self._first.event(name, **attributes)
        self._second.event(name, **attributes)

    def count(self, name: str, /, **values: float) -> None:
        """See `Tracer`."""
        self._first.count(name, **values)
        self._second.count(name, **values)


class _TwoSpans:
    __slots__ = ("_inner", "_outer")

    def __init__(self, outer: Span, inner: Span) -> None:
        self._outer, self._inner = outer, inner

    def set(self, **attributes: Attribute) -> None:
        self._outer.set(**attributes)
        self._inner.set(**attributes)

    def __enter__(self) -> Self:
        self._outer.__enter__()
        self._inner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inner.__exit__(kind, error, trace)
        self._outer.__exit__(kind, error, trace)
