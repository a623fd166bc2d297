"""Work that callers on an event loop hand to a replica's threads."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from torch import Tensor

from instgenie.orders import EditOrder, StepReport
from instgenie.prepared_edit import PreparedEdit
from instgenie.replica.ordered_reports import OrderedReports
from instgenie.running_edit import RunningEdit


class Call:
    """A caller on a loop who waits for a result from another thread. It may leave before that.

    Attributes:
        is_left: whether the caller has left.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.is_left = False

    def settle(self, result: object) -> None:
        """Hand the result to the caller. Any thread may; who is first counts."""
        self._later(self._settle, result, None)

    def fail(self, error: BaseException) -> None:
        """Hand an error to the caller, as a result."""
        self._later(self._settle, None, error)

    def tell(self, report: Callable[[Any], None], value: object) -> None:
        """Call `report` on the loop, unless the caller has left by then."""
        self._later(self._tell, report, value)

    def leave(self) -> None:
        """The caller goes; what it did not wait for is of no interest to anybody."""
        self.is_left = True
        if not self.future.cancel() and not self.future.cancelled():
            self.future.exception()  # else asyncio logs that nobody asked for it

    def _later(self, act: Callable[..., None], *values: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(act, *values)

    def _settle(self, result: object, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)

    def _tell(self, report: Callable[[Any], None], value: object) -> None:
        if not self.is_left:
            report(value)


class EditJob:
    """An edit on its way through a replica. Once it was submitted, it belongs to the runner's thread.

    Attributes:
        id: of the replica's own: what orders are called need not differ.
        name: the order's.
        tenant, output, previews: of the order.
        prepared: let go of once it is encoded, or the caller has left.
        edit: once it is encoded, until it is over.
        submitted: seconds of `time.perf_counter`.
        joined_at: when it joined its template's lane, on the scheduler's clock.
        preview_steps: after which previews are made.
        snapshots: (step, [L, C] latents) of previews that are still to be decoded.
        files: of previews that are being made.
        reports: to the caller.
    """

    def __init__(self, job_id: str, order: EditOrder, call: Call, report: Callable[[StepReport], None]) -> None:
        self.id, self.name, self.call = job_id, order.id, call
        self.tenant, self.output, self.previews = order.namespace, order.output, order.previews
        self.prepared: PreparedEdit | None = None
        self.edit: RunningEdit | None = None
        self.submitted, self.joined_at = time.perf_counter(), 0.0
        self.preview_steps: frozenset[int] = frozenset()
        self.snapshots: deque[tuple[int, Tensor]] = deque()
        self.files: list[Future[None]] = []
        self.reports = OrderedReports(self._tell)
        self._report: Callable[[StepReport], None] | None = report

    def leave(self) -> None:
        """The caller goes: what would keep a picture until the runner has seen that is let go of now."""
        self.call.leave()
        self._report = None
        self.prepared = None

    def _tell(self, step: StepReport) -> None:
        if (report := self._report) is not None:
            self.call.tell(report, step)
