"""The device tier: steps of templates whose records are on the model's device already, in the replica's own memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from instgenie_cache.eviction import EvictionPolicy

_DEFAULT_SHARE = 0.3
_BUFFER_SHARE = 0.1
_CPU_BUFFER_BYTES = 1 << 30

StepKey = tuple[str, int]  # template, step


def default_device_cache_bytes(device: torch.device) -> int:
    """The tier's budget where none is given: 30 % of what is free on a CUDA device.

    On the CPU it is 0: the host tier is the memory that the model computes in, a second copy would save nothing.
    """
    if device.type != "cuda":
        return 0
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return int(_DEFAULT_SHARE * free_bytes)


def default_buffer_bytes(device: torch.device) -> int:
    """Budget of the loader's buffers: 10 % of what is free on a CUDA device.

    A step's start is worth only what fits: half of its records at least, better all. On the CPU only records that are
    read past the host tier take buffers.
    """
    if device.type != "cuda":
        return _CPU_BUFFER_BYTES
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return int(_BUFFER_SHARE * free_bytes)


@dataclass(slots=True, eq=False)
class _Step:
    """One step's memory, set aside; `payloads` are those of its blocks once they are there."""

    key: StepKey
    num_bytes: int
    payloads: tuple[Tensor, ...] | None = None
    users: int = 0


class DeviceTier:
    """Encoded records of steps on one device, within a byte budget; a step that an edit uses is not evicted.

    Safe to use from several threads: templates are dropped by another one than the one that edits.
    """

    def __init__(self, budget_bytes: int, policy: EvictionPolicy[StepKey]) -> None:
        self.budget_bytes = budget_bytes
        self._policy = policy
        self._steps: dict[StepKey, _Step] = {}
        self._used_bytes = 0  # dropped steps that are still in use included
        self._readers: dict[str, set[DeviceReader]] = {}
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """What steps take, those that are being filled included."""
        return self._used_bytes

    def holds(self, template: str, steps: Iterable[int]) -> bool:
        """Whether all of these steps are there. Asking is no use of them."""
        with self._lock:
            held = [self._steps.get((template, step)) for step in steps]
            return all(step is not None and step.payloads is not None for step in held)

    def read(self, template: str) -> DeviceReader:
        """Begin an edit's use of a template. Close the reader."""
        reader = DeviceReader(self, template)
        with self._lock:
            self._readers.setdefault(template, set()).add(reader)
        return reader

    def drop(self, template: str) -> None:
        """Let go of a template. Edits that read it bring no steps of it any more."""
        with self._lock:
            for reader in self._readers.get(template, ()):
                reader.may_add = False
            for key in [key for key in self._steps if key[0] == template]:
                self._forget(self._steps[key], evicted=False)

    def clear(self) -> None:
        """Let go of everything."""
        for template in {template for template, _ in list(self._steps)}.union(list(self._readers)):
            self.drop(template)

    # What readers call.

    def _use(self, key: StepKey) -> _Step | None:
        if key not in self._steps:  # mostly so on a CPU, for all edits and steps
            return None
        with self._lock:
            step = self._steps.get(key)
            if step is None or step.payloads is None:
                return None
            self._policy.touch(key)
            step.users += 1
            return step

    def _reserve(self, reader: DeviceReader, key: StepKey, num_bytes: int) -> _Step | None:
        if num_bytes > self.budget_bytes:
            return None
        with self._lock:
            if not reader.may_add or key in self._steps or not self._make_room(key[0], num_bytes):
                return None
            self._used_bytes += num_bytes
            step = self._steps[key] = _Step(key, num_bytes, users=1)
            return step

    def _fill(self, step: _Step, payloads: Sequence[Tensor], cost_ms: float) -> None:
        with self._lock:
            if self._steps.get(step.key) is step:
                step.payloads = tuple(payloads)
                self._policy.insert(step.key, step.num_bytes, cost_ms)

    def _release(self, step: _Step) -> None:
        with self._lock:
            step.users -= 1
            if self._steps.get(step.key) is not step:
                self._free(step)
            elif step.payloads is None:
                self._forget(step, evicted=False)

    def _close(self, reader: DeviceReader) -> None:
        with self._lock:
            readers = self._readers.get(reader.template, set())
            readers.discard(reader)
            if not readers:
                self._readers.pop(reader.template, None)

    # With the lock held.

    def _make_room(self, template: str, num_bytes: int) -> bool:
        """Evict what goes first until so many bytes are free, or nothing where that does not do.

        Steps of the same template stay: an edit takes them in order, so each would push out the one that the next edit
        needs soonest, and a template a little larger than the budget would never be served.
        """
        missing = self._used_bytes + num_bytes - self.budget_bytes
        victims: list[_Step] = []
        if missing > 0:
            for key in self._policy.ranked():
                step = self._steps[key]
                if step.users == 0 and key[0] != template:
                    victims.append(step)
                    missing -= step.num_bytes
                    if missing <= 0:
                        break
        if missing > 0:
            return False
        for step in victims:
            self._forget(step, evicted=True)
        return True

    def _forget(self, step: _Step, *, evicted: bool) -> None:
        del self._steps[step.key]
        if step.payloads is not None:
            self._policy.remove(step.key, evicted=evicted)
        self._free(step)

    def _free(self, step: _Step) -> None:
        """Give the bytes of a step that was forgotten back, once nobody uses it."""
        if step.users == 0:
            self._used_bytes -= step.num_bytes
            step.payloads = None


class DeviceReader(AbstractContextManager["DeviceReader"]):
    """One edit's use of one template in a `DeviceTier`, a step at a time.

    Attributes:
        may_add: False once the template was dropped.
    """

    def __init__(self, tier: DeviceTier, template: str) -> None:
        self.template, self.may_add = template, True
        self._tier = tier
        self._step: _Step | None = None

    def holds(self, step: int) -> bool:
        """Whether the step is there. Asking is no use of it."""
        return self._tier.holds(self.template, [step])

    def use(self, step: int) -> Sequence[Tensor] | None:
        """Payloads of a step's blocks, which stay until `done`; None where the step is not there."""
        self.done()
        self._step = self._tier._use((self.template, step))
        return None if self._step is None else self._step.payloads

    def reserve(self, step: int, num_bytes: int) -> bool:
        """Set memory aside for a step that is about to be brought; False where there is no room for it."""
        self.done()
        self._step = self._tier._reserve(self, (self.template, step), num_bytes)
        return self._step is not None

    def fill(self, payloads: Sequence[Tensor], cost_ms: float) -> None:
        """Add the step that `reserve` was called for.

        Args:
            payloads: of its blocks, on the device, of as many bytes as were reserved.
            cost_ms: of bringing the step again.
        """
        assert self._step is not None
        self._tier._fill(self._step, payloads, cost_ms)

    def done(self) -> None:
        """The step is not used any more; one that was reserved and not filled is given up."""
        step, self._step = self._step, None
        if step is not None:
            self._tier._release(step)

    def close(self) -> None:
        """End the use of the template. A second time it does nothing."""
        self.done()
        self._tier._close(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
