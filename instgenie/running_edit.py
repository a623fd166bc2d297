"""An edit between its first step and its picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from types import TracebackType

from PIL import Image
from torch import Tensor

from instgenie.canvas import paste_back, to_picture
from instgenie.checkpoint import Checkpoint
from instgenie.edit_state import EditState, advance
from instgenie.request import EditRequest, EditResult, EditTimings
from instgenie.template import Template
from instgenie.template_reader import TemplateReader
from instgenie.window import Window


class RunningEdit(AbstractContextManager["RunningEdit"]):
    """Takes an edit's steps one by one. `close` it, or leave it as a context manager, to end its use of the cache.

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
        reader: TemplateReader | None,
        on_close: Callable[[TemplateReader], None],
    ) -> None:
        """Args:
        on_close: called with the reader once it is closed.
        """
        self.timings = timings
        self._checkpoint, self._request, self._window, self._state = checkpoint, request, window, state
        self._template, self._reader, self._on_close = template, reader, on_close
        index = state.index
        timings.tokens_total = index.num_tokens
        timings.tokens_active = index.num_tokens if reader is None else index.num_active

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
        """Take one step: on the active tokens where the cache serves it, else densely."""
        started = time.perf_counter()
        if not (self._reader is not None and self._advance_cached(self._reader)):
            advance(self._checkpoint.forward, [self._state], [None])
            self.timings.dense_steps += 1
            if self._reader is not None:
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
        """Stop reading the template. A second time it does nothing."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
            self._on_close(reader)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _advance_cached(self, reader: TemplateReader) -> bool:
        """Take a step with the template's records; False where they cannot serve it, and the state is as it was."""
        context = reader.open(self._state.record_step, self._state.index.context_positions)
        if context is None:
            return False
        before = replace(self._state)  # its tensors are replaced in a step, not written to
        advance(self._checkpoint.forward, [self._state], [context])
        if reader.finish():
            return True
        self._state = before
        return False

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
