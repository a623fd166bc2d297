"""An edit between its first step and its picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from types import TracebackType

from PIL import Image
from torch import Tensor

from instgenie.batch_step import run_step
from instgenie.canvas import paste_back, to_picture
from instgenie.checkpoint import Checkpoint
from instgenie.correction import Refresh, unused_refreshes
from instgenie.edit_state import EditState, leap, segment_shapes
from instgenie.edit_step import EditStep, WatchedContext
from instgenie.lane import Lane
from instgenie.pipeline.cost import SegmentShape
from instgenie.pipeline.planner import StepPlan
from instgenie.pipeline.step_planner import StepPlanner
from instgenie.request import EditRequest, EditResult, EditTimings
from instgenie.step_cache import next_computed
from instgenie.template import Template
from instgenie.template_reader import TemplateReader
from instgenie.tracing import current_tracer
from instgenie.window import Window


@dataclass(frozen=True, slots=True)
class TakenStep:
    """A step that was taken.

    Attributes:
        step_ms: of the whole batch.
        stall_ms: of its time, waiting for this edit's records.
        plan: None where it was not planned: no costs are known, or it could not be served with records.
    """

    step_ms: float
    stall_ms: float
    plan: StepPlan | None


class RunningEdit(AbstractContextManager["RunningEdit"]):
    """An edit that was encoded. `close` it, or leave it as a context manager, to end its use of the cache.

    Its steps are taken by `run_step`, together with others, or by `advance`.

    Attributes:
        timings: grows with every step.
        taken: steps that were computed.
        template: whose records can serve it.
        state: what it carries from step to step.
        device_ms: of the device's time, what this edit's share of its steps took.
        lane: its template's, where it computes with what that one records.
        name: what traces call it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        request: EditRequest,
        window: Window,
        state: EditState,
        template: Template,
        timings: EditTimings,
        on_close: Callable[[str, TemplateReader], None],
        planner: StepPlanner | None = None,
        refresh_steps: frozenset[int] = frozenset(),
    ) -> None:
        """Args:
        on_close: called with the template's key and the reader, once that is closed.
        planner: learns from steps that `advance` takes.
        refresh_steps: of its own, that compute all tokens though there are records.
        """
        self.timings, self.state, self.template = timings, state, template
        self._checkpoint, self._request, self._window = checkpoint, request, window
        self._on_close, self._planner = on_close, planner
        self._reader: TemplateReader | None = None
        self.lane: Lane | None = None
        self.name = ""
        self.taken: list[TakenStep] = []
        self.device_ms = 0.0
        self._shapes = segment_shapes(state)
        self._refresh_steps = refresh_steps
        self._unread_steps = unused_refreshes(refresh_steps, self.steps, state.extrapolated)
        self._batches = 0  # edits in its steps, itself included
        timings.tokens_total = timings.tokens_active = state.index.num_tokens

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.state.step

    @property
    def steps(self) -> int:
        """Steps to take in all."""
        return len(self.state.sigmas) - 1

    @property
    def passes(self) -> int:
        """Model passes a step: two where guidance is classifier-free."""
        return len(self.state.guidance.prompts)

    @property
    def template_key(self) -> str:
        """Key of the template whose records serve the edit."""
        return self.template.key

    @property
    def record_steps(self) -> list[int]:
        """The template's steps whose records its own steps read, from the next one on."""
        state = self.state
        left_out = state.extrapolated | self._unread_steps
        return [state.first_step + step for step in range(self.step, self.steps) if step not in left_out]

    @property
    def is_cached(self) -> bool:
        """Whether it asks for its template's records: it is not dense, and leaves tokens that it does not compute."""
        return self._request.cached and self.state.index.num_active < self.state.index.num_tokens

    @property
    def masked_shapes(self) -> Sequence[SegmentShape]:
        """What its segments compute in a block of a masked step."""
        return self._shapes

    @property
    def is_refreshed_next(self) -> bool:
        """Whether its next step computes all tokens, though there are records."""
        return self.step in self._refresh_steps

    @property
    def landings(self) -> list[int]:
        """How many steps it will have taken after each one that it computes."""
        computed = (step for step in range(self.steps) if step not in self.state.extrapolated)
        return [next_computed(step + 1, self.state.extrapolated) for step in computed]

    @property
    def must_hit(self) -> bool:
        """Whether it fails where its template's records are not there."""
        return self._request.must_hit

    @property
    def done(self) -> bool:
        """Whether every step has been taken."""
        return self.state.done

    @property
    def batch(self) -> float:
        """Edits in a step of this one, on average."""
        return self._batches / len(self.taken) if self.taken else 1.0

    def serve_from(self, source: TemplateReader | Lane | None) -> None:
        """Take K and V of the tokens that are not computed from there; None computes all tokens.

        A reader is the edit's from now on.
        """
        self._close_reader()
        self._reader = source if isinstance(source, TemplateReader) else None
        self.lane = source if isinstance(source, Lane) else None
        index = self.state.index
        if source is not None:
            self.timings.tokens_active = index.num_active
        elif self.taken:
            self.timings.cache = "partial"
        else:
            self.timings.tokens_active = index.num_tokens
            if self.is_cached:
                self.timings.cache = "refused"

    def advance(self) -> None:
        """Take one step by itself: on the active tokens where the cache serves it, else densely."""
        step = self.step
        while self.step == step:
            run_step(self._checkpoint.forward, [self], planner=self._planner)

    def shapes(self, *, is_dense: bool) -> Sequence[SegmentShape]:
        """What its segments compute in a block of the next step, blocks of a full prefix excepted."""
        is_dense = is_dense or self.is_refreshed_next or (self._reader is None and self.lane is None)
        return [shape.in_full() for shape in self._shapes] if is_dense else self._shapes

    # What `run_step` calls.

    def open_step(self, beside: Sequence[SegmentShape], *, is_dense: bool) -> EditStep:
        """Begin the next step. Then `keep_step` and `end_step`, or `abandon_step`.

        Args:
            beside: what else is computed in the batch.
            is_dense: compute all tokens.
        """
        state, reader, before = self.state, self._reader, replace(self.state)
        if is_dense or self.step in self._unread_steps:
            return EditStep(before, None)
        positions = state.index.context_positions
        if self.lane is not None:
            context = self.lane.context(state.record_step, positions)
            source = None if context is None else WatchedContext(context)
            return EditStep(before, source, refresh=self._refresh(source))
        opened = None
        if reader is not None:
            takes_all = self.is_refreshed_next
            opened = reader.open(state.record_step, positions, self._shapes, beside, takes_all=takes_all)
        if reader is None or opened is None:
            return EditStep(before, None)
        following = next_computed(self.step + 1, state.extrapolated)
        if following < self.steps and following not in self._unread_steps:
            reader.load_ahead(state.first_step + following)
        source = None if opened.context is None else WatchedContext(opened.context)
        return EditStep(before, source, opened.full_blocks, opened, self._refresh(source))

    def abandon_step(self, step: EditStep) -> None:
        """The step was not computed, or not for all edits of its batch: the edit is as it was before."""
        self.state = step.before
        if step.opened is not None and self._reader is not None:
            self._reader.abandon(step.error)

    def keep_step(self, step: EditStep) -> bool:
        """The step was computed: whether that counts; else the edit is as it was before.

        Extrapolated steps that come next are taken with it. An edit that rides with a lane waits where it has landed,
        until the lane comes there.
        """
        if step.opened is not None and self._reader is not None and not self._reader.finish():
            self.state = step.before
            return False
        if step.before.step in self._refresh_steps:
            # It takes away what was wrong with the velocities before it: between them and its own there is no trend.
            self.state.known = self.state.known[-1:]
        leap(self.state)
        return True

    def rows(self, step: EditStep) -> int:
        """Tokens that the step computed, over all passes, a full prefix not counted."""
        is_dense = step.context is None
        shapes = [shape.in_full() for shape in self._shapes] if is_dense else self._shapes
        return sum(shape.text_tokens + shape.active_tokens for shape in shapes)

    def end_step(self, step: EditStep, step_ms: float, batch: int, share: float) -> None:
        """Note a step that was kept, or came to nothing.

        Args:
            step_ms: that the whole batch took.
            batch: edits in it.
            share: of the device's work that was this edit's.
        """
        self.device_ms += share * step_ms
        if self.state is step.before:
            return
        timings, opened = self.timings, step.opened
        is_served = self._reader is not None or self.lane is not None
        is_refresh = step.refresh is not None or (is_served and step.before.step in self._unread_steps)
        if is_refresh:
            timings.refreshes += 1
        if is_refresh or (opened is None and step.context is None):
            timings.dense_steps += 1
            if is_served and not is_refresh:
                timings.cache = "partial"
        plan = None if opened is None else opened.plan
        self.taken.append(TakenStep(step_ms, step.stall_ms, plan))
        self._batches += batch
        timings.step_ms.append(step_ms)
        timings.denoise_ms += step_ms
        timings.extrapolated_steps += self.step - step.before.step - 1
        timings.stall_ms += step.stall_ms
        timings.full_blocks += 0 if plan is None else plan.full_prefix

    def learn_from(self, step: EditStep, compute_ms: float, step_ms: float) -> None:
        """Let the next steps be read in the way that suits what this one took.

        Args:
            compute_ms: of the batch's step, without waiting for records.
            step_ms: of all of it.
        """
        if step.opened is not None and self._reader is not None:
            self._reader.learn(step.opened, self._shapes, compute_ms, step_ms)

    def _refresh(self, source: WatchedContext | None) -> Refresh | None:
        if source is None or not self.is_refreshed_next:
            return None
        return Refresh(source, self.state.index.context_positions, self.passes)

    # Pictures.

    def decode(self, latents: Tensor) -> Image.Image:
        """The canvas that latents [L, C] are, such as `state.latents`, or `state.predicted` on the way."""
        return to_picture(self._checkpoint.codec.decode(latents[None], self.state.index.grid).cpu())

    def paste(self, canvas: Image.Image) -> Image.Image:
        """The upload with the edited pixels of the canvas. Any thread may do it."""
        request = self._request
        return paste_back(request.picture, canvas, request.mask, self._window, request.feather)

    def preview(self) -> Image.Image:
        """The upload as the edit would leave it if the model's last velocity held to the end."""
        return self.paste(self.decode(self.state.predicted))

    def finish(self) -> EditResult:
        """The result; call it once all steps are taken."""
        self.close()
        with phase(self.timings, "decode_ms"):
            picture = self.paste(self.decode(self.state.latents))
        return EditResult(picture, self.timings)

    def close(self) -> None:
        """Stop reading the template, and let go of what was found of it. A second time it does nothing."""
        self.lane, self.state.correction = None, None  # what is large waits for no file to be made
        self._close_reader()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
            self._on_close(self.template.key, reader)


@contextmanager
def phase(timings: EditTimings, name: str, edit: str = "") -> Iterator[None]:
    """Add the time that the block takes to a field of `timings`, and to the trace.

    Args:
        edit: what the trace calls the edit.
    """
    started = time.perf_counter()
    yield
    seconds = time.perf_counter() - started
    setattr(timings, name, getattr(timings, name) + 1000 * seconds)
    current_tracer().add_span(name.removesuffix("_ms"), started, seconds, edit=edit)
