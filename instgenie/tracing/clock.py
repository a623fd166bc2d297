"""The clock of all traces: it never steps, and says the time of day, so that traces of several processes line up."""

from __future__ import annotations

import time

_EPOCH_NS = time.time_ns() - time.perf_counter_ns()  # once: a clock that is set meanwhile moves nothing


def now_ns() -> int:
    """Nanoseconds since 1970."""
    return _EPOCH_NS + time.perf_counter_ns()


def at_ns(seconds: float) -> int:
    """A time of `time.perf_counter()`, as `now_ns` would have told it."""
    return _EPOCH_NS + round(1e9 * seconds)
