"""Moments of a device's work, and the milliseconds between them."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

import torch

Clock = Callable[[], float]


class Marks(Protocol):
    """Notes when the device reaches what it is told. Noting does not wait."""

    def add(self) -> None:
        """Note the moment at which all work given to the device so far is done."""
        ...

    def intervals_ms(self) -> list[float]:
        """Milliseconds between each two moments in a row; waits for the last."""
        ...


def marks_on(device: torch.device, clock: Clock = time.perf_counter) -> Marks:
    """Marks of the device's current stream; on the CPU, which does its work at once, of the clock in seconds."""
    return _StreamMarks(device) if device.type == "cuda" else _ClockMarks(clock)


class _ClockMarks:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._moments: list[float] = []

    def add(self) -> None:
        self._moments.append(self._clock())

    def intervals_ms(self) -> list[float]:
        return [1000 * (b - a) for a, b in pairwise(self._moments)]


class _StreamMarks:
    """Events: a clock of the host's would tell when work was launched."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: list[torch.cuda.Event] = []

    def add(self) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        self._events.append(event)

    def intervals_ms(self) -> list[float]:
        if self._events:
            self._events[-1].synchronize()
        return [a.elapsed_time(b) for a, b in pairwise(self._events)]
