"""From host memory to the device: what the loader does with a payload, and how the computation waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Clock = Callable[[], float]


class DeviceEvent(Protocol):
    """A point in the work of a device's stream, as `torch.cuda.Event`."""

    def query(self) -> bool:
        """Whether it has come to pass."""
        ...

    def synchronize(self) -> None:
        """Wait until it has."""
        ...

    def wait(self, stream: torch.cuda.Stream, /) -> None:
        """Let what is given to a stream from now on wait for it."""
        ...


def _at_once_ms() -> float:
    return 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """A payload on the device, there once `done` has come to pass on the loader's stream; None is at once.

    Attributes:
        took_ms: how long the stream was busy with it; to be asked once it is done.
    """

    payload: Tensor
    done: DeviceEvent | None = None
    took_ms: Callable[[], float] = _at_once_ms


class Copies:
    """Copies on a stream of their own where the device is a CUDA one; on a CPU payloads are used where they are.

    Args:
        transform: done with every payload on its way, on that stream, such as to decode it.
        clock: in seconds.
    """

    def __init__(
        self,
        device: torch.device,
        transform: Callable[[Tensor], Tensor] | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.device, self._transform, self._clock = device, transform, clock
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def is_in_place(self) -> bool:
        """Whether payloads in memory are there already: nothing is copied, nothing is done with them."""
        return self._stream is None and self._transform is None

    def copy(self, payload: Tensor) -> Copy:
        """Begin to bring a payload; called in the loader's thread."""
        if self._stream is None:
            return Copy(payload if self._transform is None else self._transform(payload))
        begun, done = _timed_event(), _timed_event()
        with torch.cuda.stream(self._stream):
            begun.record(self._stream)
            there = payload.to(self.device, non_blocking=True)
            if self._transform is not None:
                there = self._transform(there)
            done.record(self._stream)
        return Copy(there, done, lambda: float(begun.elapsed_time(done)))

    def join(self, wait: Callable[[], Copy]) -> tuple[Tensor, Callable[[], float]]:
        """Wait for a copy: the thread until it was begun, the current stream until it is done.

        Args:
            wait: waits until it was begun, or raises.
        Returns:
            The payload, and what gives the ms that were lost with waiting; on CUDA that waits for the stream.
        """
        if self._stream is None:
            started = self._clock()
            payload = wait().payload
            lost_ms = 1000 * (self._clock() - started)
            return payload, lambda: lost_ms
        # Between events: the thread runs ahead of its stream, so what it waits for is lost only from when the stream
        # has nothing left to do.
        stream = torch.cuda.current_stream(self.device)
        before, after = _timed_event(), _timed_event()
        before.record(stream)
        copy = wait()
        if copy.done is not None:
            copy.done.wait(stream)
        after.record(stream)
        copy.payload.record_stream(stream)  # its memory goes to nobody else until this stream is through with it
        return copy.payload, lambda: _elapsed_ms(before, after)

    def mark(self) -> DeviceEvent | None:
        """What comes to pass once the current stream is done with all that it was given so far; None is at once."""
        if self._stream is None:
            return None
        event = torch.cuda.Event(blocking=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def drain(self) -> None:
        """Wait until every copy that was begun is done: host memory is not read any more."""
        if self._stream is not None:
            self._stream.synchronize()


def _timed_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True, blocking=True)  # else a thread that waits for it keeps a core busy


def _elapsed_ms(before: torch.cuda.Event, after: torch.cuda.Event) -> float:
    after.synchronize()
    return float(before.elapsed_time(after))
