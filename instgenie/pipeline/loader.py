"""Brings records to the device in a thread of its own, on CUDA on a stream of its own, ahead of the computation."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from functools import partial

from torch import Tensor

from instgenie.pipeline.copies import Copies, Copy, DeviceEvent
from instgenie.pipeline.direct_load import DirectLoad
from instgenie.pipeline.load_queue import LoadQueue
from instgenie.pipeline.loading_step import LoadingStep, LoadUser, Right
from instgenie.pipeline.step_source import Loaded, StepSource, load_error, read_blocks
from instgenie.tracing import current_tracer
from instgenie_cache import CacheError

log = logging.getLogger(__name__)


class StepLoad:
    """One user's hold of a step that is being loaded. Release it."""

    def __init__(self, loader: Loader, step: LoadingStep, user: LoadUser, *, is_ahead: bool) -> None:
        self._loader, self._step, self._user = loader, step, user
        self._lost_ms: dict[int, list[Callable[[], float]]] = {}
        self._is_running, self._is_open = not is_ahead, True

    @property
    def error(self) -> CacheError | None:
        """Why it cannot be read, once that is known."""
        return self._step.error

    @property
    def is_valid(self) -> bool:
        """Whether all payloads that it gave were the step's.

        By whatever lease they were read: where several users want a step, it may be that of another, who may be gone by
        now. To be asked before the release, once all was computed: on CUDA, after `stalls_ms`.
        """
        assert self._is_open
        return self._loader._is_valid(self._user)

    @property
    def held_bytes(self) -> int:
        """Of buffers that the step has now."""
        return self._step.held_bytes

    @property
    def read_ms(self) -> float:
        """What reading took so far."""
        return self._step.read_ms

    def is_there(self, block: int) -> bool:
        """Whether the block's record was brought."""
        return self._loader._is_there(self._step, block)

    def want(self, blocks: range) -> None:
        """Load these blocks, too."""
        assert self._is_open
        new = [block for block in blocks if block not in self._user.wanted]
        if new:
            self._user.wanted.update(new)
            self._loader._want(self._step, new, self._is_running)

    def begin(self, blocks: range | None = None) -> None:
        """The running step needs it: it goes before what is loaded ahead.

        Args:
            blocks: that are needed now, and no others; None leaves it as it was.
        """
        if blocks is not None:
            self._let_go(self._user.wanted.difference(blocks))
        if not self._is_running:
            self._is_running = True
            self._loader._begin(self._step, sorted(self._user.wanted))
        if blocks is not None:
            self.want(blocks)

    def __getitem__(self, block: int) -> Tensor:
        """See `payload`."""
        return self.payload(block)

    def payload(self, block: int) -> Tensor:
        """The payload of a block on the device. The current stream computes with it only once it is there.

        Raises:
            StepLostError: it is not there any more.
            CacheError: it cannot be read, or the loader was closed.
        """
        assert block in self._user.wanted
        self.begin()
        payload, lost_ms = self._loader.copies.join(partial(self._loader._wait, self._step, self._user, block))
        self._lost_ms.setdefault(block, []).append(lost_ms)
        return payload

    def computed(self, block: int) -> None:
        """The computation with a block was launched: its buffer is given back after that."""
        if block in self._user.wanted:
            self._let_go({block})

    def stalls_ms(self) -> dict[int, float]:
        """How long the computation waited for the record of each block; on CUDA this waits for the device."""
        return {block: sum(lost_ms() for lost_ms in waits) for block, waits in self._lost_ms.items()}

    def release(self) -> None:
        """Want no more. It does not wait, not even for a read that is under way. A second time it does nothing."""
        if self._is_open:
            self._is_open = False
            self._let_go(self._user.wanted)
            self._loader._leave(self._step, self._user)

    def _let_go(self, blocks: set[int]) -> None:
        if blocks:
            self._loader._let_go(self._step, sorted(blocks), self._is_running)
            self._user.wanted = self._user.wanted - blocks


class Loader:
    """Loads steps in block order, for running steps before others; what several want is loaded once.

    It is read by the source of whoever came first, for as long as he is there, then by that of another: what a lease
    gave is good only while somebody holds that lease. What lies in memory of its own by then stays, the rest is read
    again.

    Buffers keep to a byte budget, but for a block that the computation waits for: see `LoadQueue`. What is loaded
    belongs to the thread that computes; any other may ask how much there is, and close the loader.
    """

    def __init__(
        self,
        copies: Copies,
        budget_bytes: int,
        on_loaded: Callable[[Loaded], None] = lambda _: None,
    ) -> None:
        """Args:
        budget_bytes: of buffers on the device.
        on_loaded: called in the loader's thread, with what the slower of reading and copying took.
        """
        self.copies, self.budget_bytes = copies, budget_bytes
        self._on_loaded = on_loaded
        self._changed = threading.Condition()
        self._queue = LoadQueue(budget_bytes)
        self._steps: dict[Hashable, LoadingStep] = {}
        self._after_copies: deque[tuple[DeviceEvent, Callable[[], None]]] = deque()  # in the order of their stream
        self._is_closed = False
        self._thread: threading.Thread | None = None

    @property
    def held_bytes(self) -> int:
        """In buffers now."""
        with self._changed:
            self._queue.collect()
            return self._queue.held_bytes

    def queued_bytes(self, besides: StepLoad | None = None) -> int:
        """Of records that are still to be read for running steps, those of one step not counted."""
        with self._changed:
            other = None if besides is None else besides._step
            return sum(
                step.record_bytes
                for step in self._steps.values()
                if step is not other and step.error is None
                for block in step.blocks.values()
                if block.running and block.copy is None
            )

    def load(
        self,
        key: Hashable,
        source: StepSource,
        blocks: range,
        record_bytes: int,
        buffer_bytes: int,
        *,
        is_ahead: bool = False,
    ) -> StepLoad:
        """Begin to load blocks of a step, or take part where it is loading already.

        Args:
            key: what has the same key is the same step of the same template.
            source: the loader's from now on, which closes it once all who came with sources of its owner have released
                the step and nothing is read or copied from it any more; at once where there is one of that owner.
            record_bytes: of a block's payload.
            buffer_bytes: what a block takes on the device.
            is_ahead: not for the running step: others go first.
        """
        with self._changed:
            step = self._steps.get(key)
            if step is None or step.error is not None:
                step = self._steps[key] = LoadingStep(key, record_bytes, buffer_bytes)
            user = step.join(source)
        if user.right.source is not source:
            _close(source)
        load = StepLoad(self, step, user, is_ahead=is_ahead)
        load.want(blocks)
        return load

    def direct(self, source: StepSource) -> DirectLoad:
        """A load of a step that is computed with where the source has it: the caller reads it, and by himself.

        Args:
            source: the load's from now on.
        """
        load = DirectLoad(source)
        if self._is_closed:
            load.error = CacheError("the loader was closed")
        return load

    def close(self) -> None:
        """Read no more, and wait until nothing is read. Loads that wait raise. A second time it does nothing."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
        self.copies.drain()
        with self._changed:
            left = list(self._after_copies)
            self._after_copies.clear()
        for _, act in left:
            act()

    # What loads call.

    def _want(self, step: LoadingStep, blocks: list[int], is_running: bool) -> None:
        with self._changed:
            self._queue.add(step, blocks, is_running=is_running)
            self._wake()

    def _begin(self, step: LoadingStep, blocks: list[int]) -> None:
        with self._changed:
            self._queue.begin(step, blocks)
            self._wake()

    def _is_there(self, step: LoadingStep, number: int) -> bool:
        with self._changed:
            block = step.blocks.get(number)
            return block is not None and block.copy is not None

    def _is_valid(self, user: LoadUser) -> bool:
        with self._changed:
            return user.is_valid

    def _wait(self, step: LoadingStep, user: LoadUser, number: int) -> Copy:
        with self._changed:
            block = step.blocks[number]
            if block.copy is None:
                self._queue.wait(step, number, is_awaited=True)
                self._wake()
                try:
                    with current_tracer().span("load wait", block=number):
                        self._changed.wait_for(
                            lambda: block.copy is not None or step.error is not None or self._is_closed
                        )
                finally:
                    self._queue.wait(step, number, is_awaited=False)
            if (taken := step.take(user, number)) is not None:
                return taken
            if step.error is None:
                raise CacheError("the loader was closed")
            # One of its own for each: what is raised keeps the frames that it went through, and they what they have.
            raise copy.copy(step.error) from step.error

    def _let_go(self, step: LoadingStep, blocks: list[int], is_running: bool) -> None:
        last_use = self.copies.mark()
        with self._changed:
            self._queue.let_go(step, blocks, is_running=is_running, last_use=last_use)
            self._wake()

    def _leave(self, step: LoadingStep, user: LoadUser) -> None:
        with self._changed:
            for number in step.leave(user, is_in_place=self.copies.is_in_place):
                self._queue.give_up(step, number)
            if not step.users:
                if self._steps.get(step.place) is step:
                    del self._steps[step.place]
                self._queue.forget(step)
            self._wake()
            if user.right.users or user.right.is_reading:
                return  # who reads closes the source after that
        self._after(user.right.last_copy, partial(_close, user.right.source))

    # With the lock held.

    def _wake(self) -> None:
        """Let the thread look again, if there may be something to read."""
        if self._queue.is_empty or self._is_closed:
            return
        self._changed.notify_all()
        self._start()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="loader", daemon=True)
            self._thread.start()

    # In the loader's thread.

    def _run(self) -> None:
        try:
            while self._act():
                pass
        except Exception:  # such as a device that fails
            log.exception("nothing is loaded any more")
        with self._changed:
            self._is_closed = True  # nobody waits for what will not come
            self._changed.notify_all()

    def _act(self) -> bool:
        """Do what comes next, and forget it, for it has records; False where the loader is closed."""
        act = self._next_act()
        if act is not None:
            act()
        return act is not None

    def _next_act(self) -> Callable[[], None] | None:
        """Wait for something to do; None where the loader is closed."""
        with self._changed:
            while not self._is_closed:
                self._queue.collect()
                if self._after_copies and self._after_copies[0][0].query():
                    return self._after_copies.popleft()[1]
                if (chosen := self._queue.next()) is not None:
                    step, blocks = chosen
                    right = step.rights[0]
                    right.is_reading = True
                    return partial(self._bring, step, right, blocks)
                # The device notifies nobody.
                if (event := self._queue.blocked_by) is not None:
                    return event.synchronize
                if self._after_copies:
                    return self._after_copies[0][0].synchronize
                self._changed.wait()
        return None

    def _bring(self, step: LoadingStep, right: Right, blocks: range) -> None:
        self._finish(step, right, blocks, *self._read(right.source, blocks))

    def _read(self, source: StepSource, blocks: range) -> tuple[dict[int, Copy], float, CacheError | None]:
        """Copies of the blocks as far as they could be begun, what reading took in ms, and what went wrong."""
        copies: dict[int, Copy] = {}
        error: CacheError | None = None
        started = time.perf_counter()
        try:
            payloads = read_blocks(source, blocks)
            for place, number in enumerate(blocks):
                copies[number] = self.copies.copy(payloads[place])
        except Exception as failure:  # noqa: BLE001 it is logged
            error = load_error(failure)
        return copies, 1000 * (time.perf_counter() - started), error

    def _finish(
        self,
        step: LoadingStep,
        right: Right,
        blocks: range,
        copies: dict[int, Copy],
        ms: float,
        error: CacheError | None,
    ) -> None:
        last_copy = copies[max(copies)].done if copies else None
        with self._changed:
            right.is_reading = False
            right.last_copy = last_copy or right.last_copy
            step.read_ms += ms
            is_left = right.users == 0  # meanwhile: what it gave, or why it failed, is nothing to those who stay
            if error is not None and not is_left:
                step.fail(right, error)
            self._queue.bring(step, blocks, {} if is_left else copies, right)
            self._changed.notify_all()
        if error is None and right.source.is_timed:
            # Of the copies the times alone: they may be given back before they are reported.
            took_ms = [brought.took_ms for brought in copies.values()]
            self._after(last_copy, partial(self._report, right.source, step.record_bytes, took_ms, ms))
        if is_left:
            self._after(right.last_copy, partial(_close, right.source))

    def _report(
        self, source: StepSource, record_bytes: int, copies_ms: list[Callable[[], float]], read_ms: float
    ) -> None:
        copied_ms = sum(took_ms() for took_ms in copies_ms)
        try:
            self._on_loaded(Loaded(source.tier, len(copies_ms) * record_bytes, max(read_ms, copied_ms)))
        except Exception:
            log.exception("a load cannot be reported")

    # In any.

    def _after(self, event: DeviceEvent | None, act: Callable[[], None]) -> None:
        """Do something once a copy is done: at once, or in the loader's thread."""
        with self._changed:
            if event is not None and not event.query():
                self._after_copies.append((event, act))
                self._changed.notify_all()
                self._start()
                return
        act()


def _close(source: StepSource) -> None:
    try:
        source.close()
    except Exception:
        log.exception("a source cannot be closed")
