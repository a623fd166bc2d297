"""An edit between its first step and its picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from types import TracebackType

from PIL import Image
from torch import Tensor

from instgenie.canvas import paste_back, to_picture
from instgenie.checkpoint import Checkpoint
from instgenie.edit_state import EditState, advance, segment_shapes
from instgenie.pipeline.marks import marks_on
from instgenie.pipeline.planner import StepPlan
from instgenie.request import EditRequest, EditResult, EditTimings
from instgenie.template import Template
from instgenie.template_reader import OpenStep, TemplateReader
from instgenie.window import Window
from instgenie_cache import CacheError


@dataclass(frozen=True, slots=True)
class TakenStep:
    """A step that was taken.

    Attributes:
        stall_ms: of its time, waiting for records.
        plan: None where it was not planned: no costs are known, or it could not be served with records.
    """

    step_ms: float
    stall_ms: float
    plan: StepPlan | None


class RunningEdit(AbstractContextManager["RunningEdit"]):
    """Takes an edit's steps one by one. `close` it, or leave it as a context manager, to end its use of the cache.

    Attributes:
        timings: grows with every step.
        taken: steps that were taken.
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
        self.taken: list[TakenStep] = []
        index = state.index
        self._shapes = segment_shapes(state)
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
        started, timings = time.perf_counter(), self.timings
        opened = None if self._reader is None else self._advance_cached(self._reader)
        if opened is None:
            advance(self._checkpoint.forward, [self._state], [None])
            timings.dense_steps += 1
            if self._reader is not None:
                timings.cache = "partial"
        elapsed_ms = 1000 * (time.perf_counter() - started)
        stall_ms, plan = (0.0, None) if opened is None else (opened.stall_ms, opened.plan)
        self.taken.append(TakenStep(elapsed_ms, stall_ms, plan))
        timings.step_ms.append(elapsed_ms)
        timings.denoise_ms += elapsed_ms
        timings.stall_ms += stall_ms
        timings.full_blocks += 0 if plan is None else plan.full_prefix

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

    def _advance_cached(self, reader: TemplateReader) -> OpenStep | None:
        """Take a step with the template's records; None where they cannot serve it, and the state is as it was."""
        state, forward = self._state, self._checkpoint.forward
        opened = reader.open(state.record_step, state.index.context_positions, self._shapes)
        if opened is None:
            return None
        if self.step + 1 < self.steps:
            reader.load_ahead(state.record_step + 1)
        marks = marks_on(forward.device) if opened.plan is not None else None

        def on_block(block: int) -> None:
            if marks is not None:
                marks.add()
            opened.computed(block)

        before = replace(state)  # its tensors are replaced in a step, not written to
        try:
            if marks is not None:
                marks.add()
            advance(forward, [state], [opened.context], opened.full_blocks, on_block)
            if marks is not None:
                marks.add()
        except CacheError as error:
            self._state = before
            reader.abandon(error)
            return None
        if reader.finish(self._shapes, [] if marks is None else marks.intervals_ms()):
            return opened
        self._state = before
        return None

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
