"""An edit between its first step and its picture."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

from PIL import Image
from torch import Tensor

from instgenie.canvas import paste_back, to_picture
from instgenie.checkpoint import Checkpoint
from instgenie.edit_state import EditState, advance
from instgenie.records import StepContext
from instgenie.request import EditRequest, EditResult, EditTimings
from instgenie.template import Template
from instgenie.window import Window
from instgenie_cache import CacheError, RecordFormatError, TemplateLease

log = logging.getLogger(__name__)


class RunningEdit(AbstractContextManager["RunningEdit"]):
    """Takes an edit's steps one by one. `close` it, or leave it as a context manager, to give its lease back.

    Attributes:
        timings: grows with every step.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        request: EditRequest,
        window: Window,
        state: EditState,
        template: Template,
        timings: EditTimings,
        lease: TemplateLease | None,
        on_damage: Callable[[], None],
    ) -> None:
        self.timings = timings
        self._checkpoint, self._request, self._window, self._state = checkpoint, request, window, state
        self._lease, self._on_damage, self._is_damaged = lease, on_damage, False
        self._template, self._form = template, template.form(checkpoint.forward)
        index = state.index
        timings.tokens_total = index.num_tokens
        timings.tokens_active = index.num_tokens if lease is None else index.num_active

    @property
    def step(self) -> int:
        """Steps taken."""
        return self._state.step

    @property
    def steps(self) -> int:
        """Steps to take in all."""
        return len(self._state.sigmas) - 1

    @property
    def passes(self) -> int:
        """Model passes a step: two where guidance is classifier-free."""
        return len(self._state.guidance.prompts)

    @property
    def template_key(self) -> str:
        """Key of the template whose records serve the edit."""
        return self._template.key

    @property
    def done(self) -> bool:
        """Whether every step has been taken."""
        return self._state.done

    def advance(self) -> None:
        """Take one step: on the active tokens where the lease serves it, else densely."""
        started = time.perf_counter()
        context = self._context()
        advance(self._checkpoint.forward, [self._state], [context])
        if context is None:
            self.timings.dense_steps += 1
            if self._lease is not None:
                self.timings.cache = "partial"
        elapsed_ms = 1000 * (time.perf_counter() - started)
        self.timings.step_ms.append(elapsed_ms)
        self.timings.denoise_ms += elapsed_ms

    def preview(self) -> Image.Image:
        """The upload as the edit would leave it if the model's last velocity held to the end."""
        return self._picture(self._state.predicted)

    def finish(self) -> EditResult:
        """The result; call it once all steps are taken."""
        self.close()
        with phase(self.timings, "decode_ms"):
            picture = self._picture(self._state.latents)
        return EditResult(picture, self.timings)

    def close(self) -> None:
        """Give the lease back, and have a template that lacks records dropped. A second time it does nothing."""
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                lease.release()
            except CacheError as error:
                log.warning("a lease of template %s cannot be released: %s", self._template.key, error)
            if self._is_damaged:
                self._on_damage()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _context(self) -> StepContext | None:
        if self._lease is None:
            return None
        step = self._state.record_step
        try:
            context = StepContext.open(self._lease, step, self._form, self._state.index.context_positions)
        except CacheError as error:
            log.warning("step %d of template %s is computed densely: %s", step, self._template.key, error)
            self._is_damaged |= isinstance(error, RecordFormatError)
            return None
        self._is_damaged |= context is None
        return context

    def _picture(self, latents: Tensor) -> Image.Image:
        canvas = to_picture(self._checkpoint.codec.decode(latents[None], self._state.index.grid).cpu())
        request = self._request
        return paste_back(request.picture, canvas, request.mask, self._window, request.feather)


@contextmanager
def phase(timings: EditTimings, name: str) -> Iterator[None]:
    """Write the time that the block takes into a field of `timings`."""
    started = time.perf_counter()
    yield
    setattr(timings, name, 1000 * (time.perf_counter() - started))
