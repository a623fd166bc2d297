"""Puts the records of lanes into a store in a thread of its own: a store may hang, the computation must not."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext

import torch

from instgenie.keyframes import Keyframes
from instgenie.records import DeviceRecord
from instgenie_cache import CacheError, TemplateWriter

log = logging.getLogger(__name__)

_BUDGET_BYTES = 1 << 28
_PATIENCE_SECONDS = 5.0


class RecordQueue:
    """Records on their way to a store, in the order in which they were put, within a byte budget."""

    def __init__(
        self,
        device: torch.device,
        budget_bytes: int = _BUDGET_BYTES,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        """Args:
        device: that records come from.
        budget_bytes: of records that wait; beyond it who puts one waits, but for a first one that is larger.
        patience_seconds: a store that takes longer for one thing is not waited for.
        """
        self._budget_bytes, self._patience_seconds = budget_bytes, patience_seconds
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._acts: deque[tuple[int, Callable[[], None]]] = deque()
        self._held_bytes = 0
        self._acting_since = time.monotonic()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def writer(self, writer: TemplateWriter) -> QueuedWriter:
        """Write a template through the queue, which alone uses the writer from now on."""
        return QueuedWriter(self, writer)

    def close(self) -> None:
        """Do what was asked for, and end the thread. A second time it does nothing."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def add(self, act: Callable[[], None], num_bytes: int = 0) -> None:
        """Have something done in the thread, when it is its turn; wait where too much waits already.

        Raises:
            CacheError: the store does not get on with what it was given.
        """
        with self._changed:
            while self._held_bytes and num_bytes and self._held_bytes + num_bytes > self._budget_bytes:
                left_seconds = self._acting_since + self._patience_seconds - time.monotonic()
                if left_seconds <= 0:
                    raise CacheError(f"the store took no record for {self._patience_seconds} s")
                self._changed.wait(left_seconds)
            self._held_bytes += num_bytes
            self._acts.append((num_bytes, act))
            self._changed.notify_all()

    def _run(self) -> None:
        stream = nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        with stream:
            while (entry := self._next()) is not None:
                num_bytes, act = entry
                try:
                    act()
                except Exception:
                    log.exception("records cannot be put")
                finally:
                    del act, entry
                    with self._changed:
                        self._held_bytes -= num_bytes
                        self._changed.notify_all()

    def _next(self) -> tuple[int, Callable[[], None]] | None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._acts) or self._is_closed)
            self._acting_since = time.monotonic()
            return self._acts.popleft() if self._acts else None


class QueuedWriter:
    """A template's writer behind a `RecordQueue`.

    Attributes:
        error: why the store did not take what was put, once that is known. Nothing more is put then.
    """

    def __init__(self, queue: RecordQueue, writer: TemplateWriter) -> None:
        self.error: Exception | None = None
        self._queue, self._writer = queue, writer

    def put(self, row: int, block: int, record: DeviceRecord) -> None:
        """See `PutRecord`."""
        if self.error is not None:
            return
        is_computed = None
        if record.payload.is_cuda:
            is_computed = torch.cuda.Event()
            is_computed.record(torch.cuda.current_stream(record.payload.device))

        def act() -> None:
            if self.error is None:
                if is_computed is not None:
                    is_computed.synchronize()  # which waits for this record, not for what is computed after it
                self._try(lambda: self._writer.put(row, block, record.to_host()))

        try:
            self._queue.add(act, record.payload.nbytes)
        except CacheError as error:
            self.error = error
            self.abort()

    def commit(self, cost_ms: float, keyframes: Keyframes, done: Callable[[Exception | None], None]) -> None:
        """Make the template readable, once all that was put is in the store.

        Args:
            done: called in the queue's thread, with what went wrong.
        """

        def act() -> None:
            if self.error is None:
                self._try(lambda: self._writer.commit(cost_ms, steps=len(keyframes.kept), note=keyframes.note))
            done(self.error)

        self._queue.add(act)

    def abort(self) -> None:
        """Drop what was put. After a commit, or a second time, it does nothing."""
        self._queue.add(self._abort)

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except CacheError as error:
            self.error = error
        except Exception as error:
            log.exception("records cannot be put")
            self.error = error
        if self.error is not None:
            self._abort()

    def _abort(self) -> None:
        try:
            self._writer.abort()
        except Exception:  # who waits for a commit is told all the same
            log.exception("what was put cannot be dropped")
