"""What the engine tells what it does to, and the one that keeps nothing."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

Attribute = str | bool | int | float


class Span(Protocol):
    """What is done from entering the context until leaving it, in one thread. An error that leaves it is noted."""

    def set(self, **attributes: Attribute) -> None:
        """Add what is known only now."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Tracer(Protocol):
    """Where spans, events and counters go. Safe to use from several threads.

    A span is drawn on the track of the thread it is in, inside the one that the thread is in already. So what overlaps
    without lying inside one another, as tasks of an event loop do, has to go on different tracks.
    """

    @property
    def is_on(self) -> bool:
        """Whether anything is kept: else nobody need find out what takes long to find out."""
        ...

    def span(self, name: str, /, **attributes: Attribute) -> Span:
        """To be entered at once."""
        ...

    def add_span(
        self, name: str, started: float, seconds: float, /, *, track: str | None = None, **attributes: Attribute
    ) -> None:
        """A span that is known only now.

        Args:
            started: by `time.perf_counter()`.
            track: whose it is, where that is not this thread: the device, for one. Names are kept: let them be few.
        """
        ...

    def event(self, name: str, /, **attributes: Attribute) -> None:
        """Something that took no time."""
        ...

    def count(self, name: str, /, **values: float) -> None:
        """What some numbers are from now on, drawn as one graph."""
        ...


class _NoSpan:
    def set(self, **attributes: Attribute) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


_NO_SPAN = _NoSpan()


class _NoTrace:
    is_on = False

    def span(self, _name: str, /, **_attributes: Attribute) -> Span:
        return _NO_SPAN

    def add_span(
        self, name: str, started: float, seconds: float, /, *, track: str | None = None, **attributes: Attribute
    ) -> None: ...

    def event(self, name: str, /, **attributes: Attribute) -> None: ...

    def count(self, name: str, /, **values: float) -> None: ...


NO_TRACE: Tracer = _NoTrace()
