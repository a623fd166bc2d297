"""Steps to load: sources that wait when they are told to, and a device that gets on when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from instgenie.pipeline.copies import Copies, Copy
from instgenie.pipeline.loader import Loader, StepLoad
from instgenie.pipeline.step_source import Loaded
from instgenie_cache import CacheError, TierName

CPU = torch.device("cpu")
RECORD_BYTES = 1 << 20  # so that every block is read by itself; the tensors are as small as can be
SECONDS = 10  # that any test waits for anything, at most

Answer = TypeVar("Answer")


class Gate:
    """Keeps who comes to it until it is opened."""

    def __init__(self) -> None:
        self._reached, self._open = threading.Event(), threading.Event()

    def reach(self) -> None:
        """Tell that somebody is here, and wait."""
        self._reached.set()
        assert self._open.wait(SECONDS)

    def wait(self) -> None:
        """Until somebody is here."""
        assert self._reached.wait(SECONDS)

    def open(self) -> None:
        """Let everybody pass from now on."""
        self._open.set()


class Source:
    """A step's records in memory, which is overwritten when it is closed, unless it is its own.

    Attributes:
        log: (name, block) of everything that was read, over all sources that share it.
        gates: at reads, by their first block.
        failures: what reading a block raises; None where it is lost.
        on_read: called in every read.
        reads: of this source.
        owner, is_valid, is_own: see `StepSource`.
    """

    def __init__(
        self,
        name: str = "a",
        blocks: int = 8,
        *,
        log: list[tuple[str, int]] | None = None,
        tier: TierName = "disk",
        is_timed: bool = True,
        owner: str = "somebody",
    ) -> None:
        self.name, self.tier, self.is_timed, self.owner = name, tier, is_timed, owner
        self.is_valid, self.is_own = True, False
        self.log = [] if log is None else log
        self.gates: dict[int, Gate] = {}
        self.failures: dict[int, Exception | None] = {}
        self.on_read: Callable[[], None] = lambda: None
        self.reads: list[range] = []
        self.threads: set[threading.Thread] = set()
        self.memory = [payload_of(name, block) for block in range(blocks)]
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._is_reading = self._is_misused = False

    def gate(self, block: int) -> Gate:
        """Keep the read that begins with a block waiting."""
        return self.gates.setdefault(block, Gate())

    def read(self, first: int, stop: int) -> Sequence[Tensor] | None:
        """See `StepSource`."""
        with self._lock:
            self._is_misused |= self._closed.is_set() or self._is_reading
            self._is_reading = True
        try:
            self.reads.append(range(first, stop))
            self.log += [(self.name, block) for block in range(first, stop)]
            self.threads.add(threading.current_thread())
            if first in self.gates:
                self.gates[first].reach()
            self.on_read()
            for block in range(first, stop):
                if block in self.failures:
                    if (failure := self.failures[block]) is not None:
                        raise failure
                    return None
            return self.memory[first:stop]
        finally:
            self._is_reading = False

    def close(self) -> None:
        """See `StepSource`."""
        with self._lock:
            self._is_misused |= self._closed.is_set() or self._is_reading
            self._closed.set()
        if not self.is_own:
            self._overwrite()

    def lose(self) -> None:
        """The right to read it, and with that its memory."""
        self.is_valid = False
        self._overwrite()

    def _overwrite(self) -> None:
        for payload in self.memory:
            payload.zero_()

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, and that once, and nobody read it then."""
        assert not self._is_misused
        return self._closed.is_set()

    def is_closed_soon(self) -> bool:
        """Wait until it was closed as it should be."""
        return self._closed.wait(SECONDS) and self.is_closed


def payload_of(name: str, block: int) -> Tensor:
    """[8] uint8, another one for every name and block, and never 0."""
    return torch.full((8,), 1 + (sum(name.encode()) * 31 + block) % 255, dtype=torch.uint8)


class DeviceWork:
    """What a device does when it gets there, as its `DeviceEvent`. Who waits makes it go on, unless it is held."""

    def __init__(self, work: Callable[[], object] = lambda: None, *, is_held: bool = False) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._may_go_on, self._is_done = threading.Event(), False
        if not is_held:
            self._may_go_on.set()

    def query(self) -> bool:
        """See `DeviceEvent`."""
        return self._is_done

    def synchronize(self) -> None:
        """See `DeviceEvent`."""
        assert self._may_go_on.wait(SECONDS)
        with self._lock:
            if not self._is_done:
                self._work()
                self._is_done = True

    def wait(self, _stream: object) -> None:
        """See `DeviceEvent`."""

    def finish(self) -> None:
        """Do it now."""
        self._may_go_on.set()
        self.synchronize()


class DeviceCopies(Copies):
    """As on a CUDA device: copies are done, and the computation gets on, some time after they were told to.

    Attributes:
        copied, launched: what its two streams were given, in order.
        is_held: the device does nothing before it is told to.
    """

    def __init__(self, *, is_held: bool = False) -> None:
        super().__init__(CPU)
        self.is_held = is_held
        self.copied: list[DeviceWork] = []
        self.launched: list[DeviceWork] = []

    @property
    def is_in_place(self) -> bool:
        """See `Copies`."""
        return False

    def copy(self, payload: Tensor) -> Copy:
        """See `Copies`."""
        there = torch.zeros_like(payload)
        self.copied.append(DeviceWork(lambda: there.copy_(payload), is_held=self.is_held))
        return Copy(there, self.copied[-1], lambda: 8.0)

    def join(self, wait: Callable[[], Copy]) -> tuple[Tensor, Callable[[], float]]:
        """See `Copies`."""
        copy = wait()
        assert copy.done is not None
        self.launched.append(DeviceWork(copy.done.synchronize, is_held=self.is_held))
        return copy.payload, lambda: 0.0

    def mark(self) -> DeviceWork:
        """See `Copies`."""
        before = list(self.launched)

        def compute() -> None:
            for work in before:
                work.synchronize()

        self.launched.append(DeviceWork(compute, is_held=self.is_held))
        return self.launched[-1]

    def drain(self) -> None:
        """See `Copies`."""
        for work in self.copied:
            work.finish()

    def finish(self) -> None:
        """Do all that was launched, and what that needs."""
        self.drain()
        for work in self.launched:
            work.finish()


@contextmanager
def a_loader(
    blocks: float = 100, copies: Copies | None = None, on_loaded: Callable[[Loaded], None] = lambda _: None
) -> Iterator[Loader]:
    """A loader with a budget of so many blocks; it is closed at the end."""
    loader = Loader(Copies(CPU) if copies is None else copies, int(blocks * RECORD_BYTES), on_loaded)
    try:
        yield loader
    finally:
        loader.close()


def load(loader: Loader, source: Source, blocks: range, *, key: str | None = None, is_ahead: bool = False) -> StepLoad:
    """Begin to load a step by its source's name."""
    return loader.load(
        source.name if key is None else key, source, blocks, RECORD_BYTES, RECORD_BYTES, is_ahead=is_ahead
    )


def is_right(payload: Tensor, name: str, block: int) -> bool:
    """Whether a payload is the block's."""
    return torch.equal(payload, payload_of(name, block))


def compute(load: StepLoad, blocks: range, name: str = "a") -> None:
    """Compute blocks in order with payloads that have to be the right ones."""
    for block in blocks:
        assert is_right(load.payload(block), name, block)
        load.computed(block)


def release(loads: Iterable[StepLoad]) -> None:
    """Release them all."""
    for one in loads:
        one.release()


class Waiting:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether it has come back."""
        return not self._thread.is_alive()

    def end(self) -> BaseException | None:
        """What it raised. It has to come back within seconds."""
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        return self.error

    def _run(self) -> None:
        try:
            self._call()
        except CacheError as error:
            self.error = error
