"""What is read next, for whom, and which buffers are held meanwhile. Decisions alone: no thread, no lock, no clock."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import count

from instgenie.pipeline.copies import Copy, DeviceEvent
from instgenie.pipeline.loading_step import LoadingBlock, LoadingStep, Right, Urgency

_READ_BYTES = 1 << 18  # at a time, where so many are wanted: small records are not worth a call each


class LoadQueue:
    """Blocks are read in block order, what running steps need before what is loaded ahead of them.

    In block order over all steps, for a batch computes them so. Buffers keep to the budget: where there is no room for
    a block, what was loaded ahead and is needed after it is given up, the last blocks first, and read again later. Only
    a block that the computation waits for may go beyond, one at a time, once no buffer is about to be given back.

    Attributes:
        held_bytes: in buffers, those that the device has yet to be done with included.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes, self.held_bytes = budget_bytes, 0
        self._numbers = count()
        self._entries: list[tuple[Urgency, int, int, LoadingStep]] = []  # a heap; some are out of date
        self._spare: set[tuple[int, LoadingStep]] = set()  # blocks that are there, and no running step needs
        self._leaving: deque[tuple[DeviceEvent, LoadingStep]] = deque()  # buffers, in the order of the device's work
        self._leaving_bytes = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to read."""
        return not self._entries

    @property
    def blocked_by(self) -> DeviceEvent | None:
        """Where something waits for room: what gives some, once it has come to pass."""
        return self._leaving[0][0] if self._entries and self._leaving else None

    def add(self, step: LoadingStep, numbers: Iterable[int], *, is_running: bool) -> None:
        """One more user wants these blocks."""
        for number in numbers:
            block = step.blocks.setdefault(number, LoadingBlock())
            block.users += 1
            block.running += is_running
            self._sort_in(step, number)

    def begin(self, step: LoadingStep, numbers: Iterable[int]) -> None:
        """A user's step runs, who wants these blocks already."""
        for number in numbers:
            step.blocks[number].running += 1
            self._sort_in(step, number)

    def wait(self, step: LoadingStep, number: int, *, is_awaited: bool) -> None:
        """The computation waits for a block, or does so no more."""
        if number in step.blocks:
            step.blocks[number].is_awaited = is_awaited
            self._sort_in(step, number)

    def let_go(
        self, step: LoadingStep, numbers: Iterable[int], *, is_running: bool, last_use: DeviceEvent | None
    ) -> None:
        """A user wants these blocks no more."""
        for number in numbers:
            block = step.blocks[number]
            block.users -= 1
            block.running -= is_running
            if block.is_taken:
                block.last_use = last_use
            if block.users == 0:
                del step.blocks[number]
                if block.copy is not None:
                    self._free(step, block.last_use)
            self._sort_in(step, number)
        self._make_room(0)

    def forget(self, step: LoadingStep) -> None:
        """Nobody wants anything of the step any more."""
        self._entries = [entry for entry in self._entries if entry[3] is not step]
        heapq.heapify(self._entries)

    def next(self) -> tuple[LoadingStep, range] | None:
        """The blocks that are read next, buffers set aside; None where there are none, or no room for them."""
        while self._entries:
            urgency, first, _, step = self._entries[0]
            if not self._is_missing(step, first, urgency):
                heapq.heappop(self._entries)
                continue
            room = self._room(step, first, urgency)
            if room == 0:
                return None
            most = min(room, max(1, _READ_BYTES // max(1, step.record_bytes)))
            stop = first + 1
            while stop - first < most and self._is_missing(step, stop, urgency, Urgency.RUNNING):
                stop += 1
            self._hold(step, stop - first)
            return step, range(first, stop)
        return None

    def bring(self, step: LoadingStep, blocks: range, copies: Mapping[int, Copy], right: Right) -> None:
        """What `next` said was read, as far as there are copies."""
        for number in blocks:
            block, copy = step.blocks.get(number), copies.get(number)
            if block is not None and copy is not None:
                block.copy, block.right, block.queued_as = copy, right, None
            else:
                self._free(step, None)  # what is copied there next comes after it on the same stream
            self._sort_in(step, number)

    def give_up(self, step: LoadingStep, number: int) -> None:
        """What was brought of a block goes; it is read again for those who want it."""
        block = step.blocks[number]
        self._free(step, block.last_use)
        block.copy = block.right = block.last_use = None
        block.is_taken = False
        self._sort_in(step, number)

    def collect(self) -> None:
        """Take buffers back that the device is done with."""
        while self._leaving and self._leaving[0][0].query():
            _, step = self._leaving.popleft()
            self._leaving_bytes -= step.buffer_bytes
            self._hold(step, -1)

    def _sort_in(self, step: LoadingStep, number: int) -> None:
        """Put a block where it belongs: among those to read, those that may be given up, or neither."""
        block = step.blocks.get(number)
        if block is None or block.copy is None or block.running or not step.buffer_bytes:
            self._spare.discard((number, step))
        else:
            self._spare.add((number, step))
        if block is not None and block.copy is None and block.queued_as != block.urgency:
            block.queued_as = block.urgency
            heapq.heappush(self._entries, (block.urgency, number, next(self._numbers), step))

    def _is_missing(self, step: LoadingStep, number: int, *urgencies: Urgency) -> bool:
        block = step.blocks.get(number)
        return block is not None and block.copy is None and step.error is None and block.urgency in urgencies

    def _room(self, step: LoadingStep, first: int, urgency: Urgency) -> int:
        """How many of a step's blocks may be read, from the first on."""
        needed_bytes = step.buffer_bytes
        if not needed_bytes:
            return len(step.blocks)
        self._make_room(needed_bytes, first + 1 if urgency is Urgency.AHEAD else 0)
        free_bytes = self.budget_bytes - self.held_bytes
        if free_bytes >= needed_bytes:
            return free_bytes // needed_bytes
        return 1 if urgency is Urgency.AWAITED and not self._leaving else 0

    def _make_room(self, num_bytes: int, first: int = 0) -> None:
        """Give up what was loaded ahead, from a block on, until there are so many bytes, if need be."""
        while self._spare and self.held_bytes - self._leaving_bytes + num_bytes > self.budget_bytes:
            number, step = max(self._spare, key=lambda place: place[0])
            if number < first:
                break
            self.give_up(step, number)

    def _free(self, step: LoadingStep, last_use: DeviceEvent | None) -> None:
        if last_use is None or last_use.query():
            self._hold(step, -1)
        elif step.buffer_bytes:
            self._leaving.append((last_use, step))
            self._leaving_bytes += step.buffer_bytes

    def _hold(self, step: LoadingStep, buffers: int) -> None:
        step.held_bytes += buffers * step.buffer_bytes
        self.held_bytes += buffers * step.buffer_bytes
