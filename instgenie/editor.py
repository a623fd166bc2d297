"""One edit from request to picture, in this process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from instgenie.canvas import canvas_mask, canvas_pixels, to_tensor
from instgenie.checkpoint import Checkpoint
from instgenie.conditioning import mask_pixels
from instgenie.content_cache import ContentCache
from instgenie.edit_state import EditState, Guidance, start_edit
from instgenie.errors import TemplateNotCachedError
from instgenie.flow import flow_sigmas
from instgenie.mask import bounding_box
from instgenie.records import CODEC_VERSION, dtype_name
from instgenie.request import EditRequest, EditResult, EditTimings
from instgenie.running_edit import RunningEdit, phase
from instgenie.template import Template, record_template
from instgenie.text import Prompt
from instgenie.token_index import token_index
from instgenie.trajectory import Trajectory, seeded_noise
from instgenie.warm_request import WarmedWindow, WarmOutcome, WarmRequest
from instgenie.window import Window, all_windows, choose_window
from instgenie_cache import CacheError, RecordStore, TemplateLease, content_digest, template_key

log = logging.getLogger(__name__)

_ENCODINGS_BUDGET_BYTES = 256 << 20


class Editor:
    """Edits pictures with one checkpoint, one at a time, and keeps templates' records in `store`.

    Encoded prompts and pictures are kept by content. Not for use by several threads at once.
    """

    def __init__(self, checkpoint: Checkpoint, store: RecordStore) -> None:
        self.checkpoint, self.store = checkpoint, store
        self._prompts: ContentCache[Prompt] = ContentCache(_ENCODINGS_BUDGET_BYTES, lambda prompt: prompt.num_bytes)
        self._latents: ContentCache[Tensor] = ContentCache(_ENCODINGS_BUDGET_BYTES, lambda latents: latents.nbytes)

    def edit(self, request: EditRequest) -> EditResult:
        """Run the edit. A cached edit of an unknown template records it first; a failing cache costs dense steps.

        Raises:
            InvalidInputError: the request does not fit the model.
        """
        with self.start(request) as running:
            while not running.done:
                running.advance()
            return running.finish()

    def start(self, request: EditRequest, check: Callable[[], None] = lambda: None) -> RunningEdit:
        """The edit before its first step, its template recorded if need be.

        Args:
            check: called before each step of the recording; what it raises ends it.

        Raises:
            InvalidInputError: the request does not fit the model.
            TemplateNotCachedError: the request must hit and does not.
        """
        timings = EditTimings()
        with phase(timings, "encode_ms"):
            window = self.window(request)
            state, template = self._prepare(request, window)
        is_cached = request.cached and state.index.num_active < state.index.num_tokens
        lease = self._open(template, timings, request.must_hit, check) if is_cached else None
        return RunningEdit(
            self.checkpoint, request, window, state, template, timings, lease, on_damage=lambda: self._drop(template)
        )

    def dense(self, request: EditRequest) -> EditResult:
        """The same edit with every token computed."""
        return self.edit(replace(request, cached=False))

    def warm(self, request: WarmRequest, check: Callable[[], None] = lambda: None) -> Iterator[WarmedWindow]:
        """Record the templates of a picture's windows, one by one, those that are not recorded yet.

        Args:
            check: called before each step; what it raises ends the recording.

        Raises:
            InvalidInputError: the request does not fit the model.
        """
        model = self.checkpoint
        patch, canvas_tokens, size = model.codec.patch, model.settings.canvas_tokens, request.picture.size
        if request.boxes is None:
            windows = all_windows(*size, patch, canvas_tokens)[: request.max_windows]
        else:
            windows = list(dict.fromkeys(choose_window(*size, box, patch, canvas_tokens) for box in request.boxes))
        for number, window in enumerate(windows):
            canvas = canvas_pixels(request.picture, window)
            clean = self._encode(canvas.tobytes(), to_tensor(canvas))
            grid = (window.canvas_height // patch, window.canvas_width // patch)
            template = self._template(request, canvas.tobytes(), clean, grid)
            lease = self._lease(template)
            if lease is not None:
                lease.release()
            outcome: WarmOutcome = "hit" if lease else "cold" if self._record(template, check) else "refused"
            num_bytes = template.form(model.forward).size(template.steps).num_bytes
            yield WarmedWindow(number + 1, len(windows), window, template.key, num_bytes, outcome)

    def window(self, request: EditRequest) -> Window:
        """The part of the picture that the model will see."""
        size = request.picture.size
        box = bounding_box(request.mask) if request.crop else (0, 0, *size)
        return choose_window(*size, box, self.checkpoint.codec.patch, self.checkpoint.settings.canvas_tokens)

    def pays_alone(self, request: EditRequest) -> bool:
        """Whether recording the template for this one edit computes fewer tokens than the dense edit.

        The template lane is one pass over all tokens in every step, an edit has a pass for each prompt of its
        guidance, in the steps that its strength leaves. So it never pays for a model that has its guidance distilled.
        """
        index = token_index(self._mask(request, self.window(request)), self.checkpoint.codec.patch, request.halo)
        passes = len(self._guidance(request).prompts)
        steps = self.checkpoint.settings.steps if request.steps is None else request.steps
        steps_run = len(flow_sigmas(steps, self.checkpoint.shift, index.num_tokens, request.strength)) - 1
        dense = steps_run * passes * index.num_tokens
        return steps * index.num_tokens + steps_run * passes * index.num_active < dense

    def _open(
        self, template: Template, timings: EditTimings, must_hit: bool, check: Callable[[], None]
    ) -> TemplateLease | None:
        """A lease of the template, recorded first if need be; None where the cache does not have it then."""
        lease = self._lease(template)
        timings.cache = "hit"
        if lease is None and must_hit:
            raise TemplateNotCachedError(f"template {template.key} is not cached")
        if lease is None:
            with phase(timings, "record_ms"):
                lease = self._lease(template) if self._record(template, check) else None
            timings.cache = "refused" if lease is None else "cold"
        return lease

    def _prepare(self, request: EditRequest, window: Window) -> tuple[EditState, Template]:
        """Everything of an edit that comes before its first step."""
        model = self.checkpoint
        device = model.forward.device
        mask = self._mask(request, window)
        index = token_index(mask, model.codec.patch, request.halo)
        canvas = canvas_pixels(request.picture, window)
        content, pixels = canvas.tobytes(), to_tensor(canvas)
        clean = self._encode(content, pixels)
        template = self._template(request, content, clean, index.grid)
        sigmas = flow_sigmas(template.steps, model.shift, index.num_tokens, request.strength)
        state = start_edit(
            index.to(device),
            template.trajectory,
            seeded_noise(tuple(clean.shape), request.seed).to(device),
            self._condition(content, pixels, mask),
            self._guidance(request),
            sigmas,
            first_step=template.steps + 1 - len(sigmas),
        )
        return state, template

    def _mask(self, request: EditRequest, window: Window) -> Tensor:
        """[H, W] bool on the canvas."""
        # A copy: views with negative strides are legal masks, but no tensors.
        return torch.from_numpy(np.array(canvas_mask(request.mask, window)))

    def _template(
        self, request: EditRequest | WarmRequest, pixels: bytes, clean: Tensor, grid: tuple[int, int]
    ) -> Template:
        model = self.checkpoint
        steps = model.settings.steps if request.steps is None else request.steps
        guidance = self._scale(request) if model.distilled else None
        settings: dict[str, str | int | float | bool | None] = {
            "namespace": request.namespace,
            "revision": model.revision,
            "dtype": dtype_name(model.forward.dtype),
            "rows": grid[0],
            "columns": grid[1],
            "steps": steps,
            "seed": request.template_seed,
            "prompt": request.template_prompt,
            "guidance": guidance,
            "codec": CODEC_VERSION,
        }
        nothing = torch.zeros(grid[0] * model.codec.patch, grid[1] * model.codec.patch, dtype=torch.bool)
        condition = None
        if model.takes_fill:
            condition = torch.cat([clean, self._mask_channels(nothing)], dim=-1)
        return Template(
            template_key(pixels, settings),
            grid,
            Trajectory(clean, seeded_noise(tuple(clean.shape), request.template_seed).to(clean.device)),
            condition,
            self._prompt(request.template_prompt),
            guidance,
            flow_sigmas(steps, model.shift, grid[0] * grid[1]),
        )

    def _lease(self, template: Template) -> TemplateLease | None:
        try:
            return self.store.lease(template.key)
        except CacheError as error:
            log.warning("template %s cannot be looked up: %s", template.key, error)
            return None

    def _record(self, template: Template, check: Callable[[], None]) -> bool:
        try:
            record_template(self.checkpoint.forward, template, self.store, check)
        except CacheError as error:
            log.warning("template %s is not cached: %s", template.key, error)
            return False
        return True

    def _drop(self, template: Template) -> None:
        """Drop a template that lost records: the next edit makes them anew."""
        log.warning("template %s lacks records and is dropped", template.key)
        try:
            self.store.delete(template.key)
        except CacheError as error:
            log.warning("template %s cannot be dropped: %s", template.key, error)

    def _encode(self, content: bytes, pixels: Tensor) -> Tensor:
        """[L, C] tokens of a canvas on the model's device, by content."""

        def encode() -> Tensor:
            return self.checkpoint.codec.encode(pixels)[0].to(self.checkpoint.forward.device)

        return self._latents.get_or_make(content_digest(content, repr(tuple(pixels.shape)).encode()), encode)

    def _condition(self, content: bytes, pixels: Tensor, mask: Tensor) -> Tensor | None:
        """[L, C + P*P] fill conditioning: the picture without its masked pixels, and the mask."""
        if not self.checkpoint.takes_fill:
            return None
        masked = self._encode(content_digest(content, mask.numpy().tobytes()).encode(), pixels * ~mask)
        return torch.cat([masked, self._mask_channels(mask)], dim=-1)

    def _mask_channels(self, mask: Tensor) -> Tensor:
        """[H, W] bool -> [L, patch * patch] float32 on the model's device."""
        codec = self.checkpoint.codec
        return mask_pixels(mask.float()[None, None], codec.patch, codec.pack)[0].to(self.checkpoint.forward.device)

    def _scale(self, request: EditRequest | WarmRequest) -> float:
        scale = self.checkpoint.settings.guidance if request.guidance is None else request.guidance
        return float(scale)  # 30 and 30.0 are one template

    def _guidance(self, request: EditRequest) -> Guidance:
        scale = self._scale(request)
        if self.checkpoint.distilled:
            return Guidance((self._prompt(request.prompt),), scale, True)
        if scale == 1 or not request.prompt:  # both branches would be the same
            return Guidance((self._prompt(request.prompt),), 1.0, False)
        if scale == 0:
            return Guidance((self._prompt(""),), 1.0, False)
        return Guidance((self._prompt(request.prompt), self._prompt("")), scale, False)

    def _prompt(self, text: str) -> Prompt:
        return self._prompts.get_or_make(
            content_digest(text.encode()), lambda: self.checkpoint.prompts.encode([text])[0]
        )
