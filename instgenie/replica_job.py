"""Work that callers on an event loop hand to a runner thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MORE = object()


class GoneError(Exception):
    """The caller has gone."""


@dataclass(slots=True, eq=False)
class Job:
    """Something for the runner thread to do: `work` is called there, its result goes to `future` on the loop.

    Work that returns `MORE` is called again, when what waited by then has had its turn.
    """

    work: Callable[[Job], Any] | None
    priority: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    submitted: float = field(default_factory=time.perf_counter)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def leave(self) -> None:
        """The caller goes; what the work holds, pictures above all, is let go though the job may still be queued."""
        self.cancelled.set()
        self.work = None

    def check(self) -> None:
        """Raise where the caller has gone."""
        if self.cancelled.is_set():
            raise GoneError

    def tell(self, report: Callable[[Any], None], value: object) -> None:
        """Call `report` on the loop, unless the caller has gone by then."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            self.loop.call_soon_threadsafe(self._tell, report, value)

    def _tell(self, report: Callable[[Any], None], value: object) -> None:
        if not self.cancelled.is_set():
            report(value)

    def settle(self, result: object, error: BaseException | None) -> None:
        """Hand the result or the error to the caller."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._settle, result, error)

    def _settle(self, result: object, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)
