"""How one edit reads its template: from the device where the step is there, else through a lease of the store."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

from torch import Tensor

from instgenie.device_tier import DeviceReader
from instgenie.orders import ServingTier
from instgenie.records import ForeignRecordError, RecordForm, StepContext
from instgenie_cache import CacheError, TemplateLease

log = logging.getLogger(__name__)

# What a copy to the device costs besides bringing the step into memory, for weighing steps against each other only.
_COPIED_BYTES_PER_MS = 20_000_000


@dataclass(slots=True)
class _Pending:
    """The step that is being computed, and what it took to read it; None where it is on the device."""

    context: StepContext
    read_ms: float | None


class TemplateReader(AbstractContextManager["TemplateReader"]):
    """Opens a template's steps one after the other; close it, or leave it as a context manager.

    Nothing that a store does wrong is raised: the step is None then.

    Attributes:
        is_lost: the store did not have a step. It drops what is broken by itself; and where somebody else dropped the
            template, another of its name may be there by now, which is none of this reader's business.
        is_foreign: its records are in good order, and not the model's: the store cannot know.
    """

    def __init__(self, form: RecordForm, lease: TemplateLease | None, device: DeviceReader) -> None:
        """Args:
        lease: the reader's from now on; None where the device has to do.
        """
        self.is_lost = self.is_foreign = False
        self._form, self._lease, self._device = form, lease, device
        self._pending: _Pending | None = None

    def prefetch(self, steps: Sequence[int]) -> None:
        """Have these steps brought near."""
        if self._lease is not None and steps:
            try:
                self._lease.prefetch(steps)
            except CacheError as error:
                log.warning("template %s cannot be fetched ahead: %s", self._device.template, error)

    def tier(self) -> ServingTier | None:
        """The coldest tier that a step comes from, as the lease says; None where it cannot say."""
        try:
            return None if self._lease is None else self._lease.tier
        except CacheError:
            return None

    def open(self, step: int, positions: Tensor) -> StepContext | None:
        """The context of a step, None where it has to be computed densely. Then `finish` it.

        Args:
            positions: [U] the edit's context tokens, on the model's device.
        """
        payloads = self._device.use(step)
        if payloads is not None:
            self._pending = _Pending(StepContext(payloads, self._form, positions), None)
            return self._pending.context
        lease = self._lease
        if lease is None:
            return None
        started = time.perf_counter()
        try:
            context = StepContext.open(lease, step, self._form, positions)
        except CacheError as error:
            log.warning("step %d of template %s is computed densely: %s", step, self._device.template, error)
            self.is_foreign |= isinstance(error, ForeignRecordError) and self._is_leased()
            return None
        if context is None:
            log.warning("step %d of template %s is computed densely: it is lost", step, self._device.template)
            self.is_lost = True
            return None
        self._pending = _Pending(context, 1000 * (time.perf_counter() - started))
        context.keep = self._device.reserve(step, self._form.step_bytes)
        return context

    def finish(self) -> bool:
        """End the step that was opened: whether all that its context gave was the template's.

        False where the lease was lost meanwhile: the memory may have been used for something else.
        """
        pending, self._pending = self._pending, None
        assert pending is not None
        context, read_ms = pending.context, pending.read_ms
        if read_ms is not None:
            context.wait()  # what a device has yet to read may change, once the lease is lost or asked for another step
            if not self._is_leased():
                self._device.done()
                log.warning("the lease of template %s was lost during a step", self._device.template)
                return False
            if context.keep and len(context.brought) == self._form.blocks:
                payloads = [context.brought[block] for block in range(self._form.blocks)]
                self._device.fill(payloads, read_ms + self._form.step_bytes / _COPIED_BYTES_PER_MS)
        self._device.done()
        return True

    def close(self) -> None:
        """Give the lease back. A second time it does nothing."""
        pending, self._pending = self._pending, None
        try:
            if pending is not None:  # the step failed half-way: copies may be under way
                pending.context.wait()
        finally:
            self._device.close()
            self._release()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _release(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                lease.release()
            except CacheError as error:
                log.warning("a lease of template %s cannot be released: %s", self._device.template, error)

    def _is_leased(self) -> bool:
        try:
            return self._lease is not None and self._lease.is_valid
        except CacheError:
            return False
