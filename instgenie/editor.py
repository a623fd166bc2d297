"""One edit from request to picture, in this process."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch
from torch import Tensor

from instgenie.autoencoder import LatentCodec
from instgenie.canvas import canvas_mask, canvas_pixels, paste_back, to_picture, to_tensor
from instgenie.checkpoint import Checkpoint
from instgenie.conditioning import mask_pixels
from instgenie.content_cache import ContentCache
from instgenie.edit_state import EditState, Guidance, advance, start_edit
from instgenie.flow import flow_sigmas
from instgenie.mask import bounding_box
from instgenie.records import CODEC, StepContext, dtype_name
from instgenie.request import EditRequest, EditResult, EditTimings
from instgenie.template import Template, record_template
from instgenie.text import Prompt
from instgenie.token_index import TokenIndex, token_index
from instgenie.trajectory import Trajectory, seeded_noise
from instgenie.window import Window, choose_window
from instgenie_cache import CacheError, RecordStore, content_digest, template_key

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
        timings = EditTimings()
        with _phase(timings, "encode_ms"):
            window = self.window(request)
            state, template = self._prepare(request, window)
        timings.tokens_active = state.index.num_active if request.cached else state.index.num_tokens
        timings.tokens_total = state.index.num_tokens
        if request.cached:
            timings.cache = "hit" if self._is_recorded(template) else "cold"
        if timings.cache == "cold":
            with _phase(timings, "record_ms"):
                self._record(template)
        with _phase(timings, "denoise_ms"):
            while not state.done:
                started = time.perf_counter()
                context = self._context(template, state) if request.cached else None
                timings.dense_steps += context is None
                advance(self.checkpoint.forward, [state], [context])
                timings.step_ms.append(1000 * (time.perf_counter() - started))
        with _phase(timings, "decode_ms"):
            edited = to_picture(self.checkpoint.codec.decode(state.latents[None], state.index.grid).cpu())
            picture = paste_back(request.picture, edited, request.mask, window, request.feather)
        return EditResult(picture, timings)

    def dense(self, request: EditRequest) -> EditResult:
        """The same edit with every token computed."""
        return self.edit(replace(request, cached=False))

    def window(self, request: EditRequest) -> Window:
        """The part of the picture that the model will see."""
        size = request.picture.size
        box = bounding_box(request.mask)
        return choose_window(*size, box, self.checkpoint.codec.patch, self.checkpoint.settings.canvas_tokens)

    def _prepare(self, request: EditRequest, window: Window) -> tuple[EditState, Template]:
        """Everything of an edit that comes before its first step."""
        model = self.checkpoint
        mask = torch.from_numpy(canvas_mask(request.mask, window))
        index = token_index(mask, model.codec.patch, request.halo)
        pixels = canvas_pixels(request.picture, window)
        clean = self._encode(pixels.tobytes(), to_tensor(pixels))
        template = self._template(request, pixels.tobytes(), clean, index)
        steps = model.settings.steps if request.steps is None else request.steps
        sigmas = flow_sigmas(steps, model.shift, index.num_tokens, request.strength)
        state = start_edit(
            index,
            template.trajectory,
            seeded_noise(tuple(clean.shape), request.seed),
            self._condition(pixels.tobytes(), to_tensor(pixels), mask),
            self._guidance(request),
            sigmas,
            first_step=len(template.sigmas) - len(sigmas),
        )
        return state, template

    def _template(self, request: EditRequest, pixels: bytes, clean: Tensor, index: TokenIndex) -> Template:
        model = self.checkpoint
        steps = model.settings.steps if request.steps is None else request.steps
        guidance = self._scale(request) if model.distilled else None
        settings: dict[str, str | int | float | bool | None] = {
            "model": model.settings.name,
            "revision": model.revision,
            "dtype": dtype_name(model.forward.dtype),
            "rows": index.grid[0],
            "columns": index.grid[1],
            "steps": steps,
            "seed": request.template_seed,
            "prompt": request.template_prompt,
            "guidance": guidance,
            "codec": CODEC,
        }
        nothing = torch.zeros(index.grid[0] * model.codec.patch, index.grid[1] * model.codec.patch, dtype=torch.bool)
        condition = None
        if model.takes_fill:
            condition = torch.cat([clean, _mask_channels(nothing, model.codec)], dim=-1)
        return Template(
            template_key(pixels, settings),
            index.grid,
            Trajectory(clean, seeded_noise(tuple(clean.shape), request.template_seed)),
            condition,
            self._prompt(request.template_prompt),
            guidance,
            flow_sigmas(steps, model.shift, index.num_tokens),
        )

    def _is_recorded(self, template: Template) -> bool:
        try:
            return self.store.holds(template.key)
        except CacheError as error:
            log.warning("template %s cannot be looked up: %s", template.key, error)
            return False

    def _record(self, template: Template) -> None:
        try:
            record_template(self.checkpoint.forward, template, self.store)
        except CacheError as error:
            log.warning("template %s is not cached: %s", template.key, error)
            with suppress(CacheError):  # what the store cannot drop either, it sweeps: it was never committed
                self.store.delete(template.key)

    def _context(self, template: Template, state: EditState) -> StepContext | None:
        forward = self.checkpoint.forward
        positions = state.index.context_positions
        try:
            return StepContext.open(
                self.store, template.key, state.record_step, forward.num_blocks, positions, forward.device
            )
        except CacheError as error:
            log.warning("step %d of template %s is computed densely: %s", state.record_step, template.key, error)
            return None

    def _encode(self, content: bytes, pixels: Tensor) -> Tensor:
        """[L, C] tokens of a canvas, by content."""

        def encode() -> Tensor:
            return self.checkpoint.codec.encode(pixels)[0].cpu()

        return self._latents.get_or_make(content_digest(content, repr(tuple(pixels.shape)).encode()), encode)

    def _condition(self, content: bytes, pixels: Tensor, mask: Tensor) -> Tensor | None:
        """[L, C + P*P] fill conditioning: the picture without its masked pixels, and the mask."""
        if not self.checkpoint.takes_fill:
            return None
        masked = self._encode(content_digest(content, mask.numpy().tobytes()).encode(), pixels * ~mask)
        return torch.cat([masked, _mask_channels(mask, self.checkpoint.codec)], dim=-1)

    def _scale(self, request: EditRequest) -> float:
        scale = self.checkpoint.settings.guidance if request.guidance is None else request.guidance
        return float(scale)  # 30 and 30.0 are one template

    def _guidance(self, request: EditRequest) -> Guidance:
        scale, prompt = self._scale(request), self._prompt(request.prompt)
        if self.checkpoint.distilled or scale == 1:
            return Guidance((prompt,), scale, self.checkpoint.distilled)
        return Guidance((prompt, self._prompt("")), scale, False)

    def _prompt(self, text: str) -> Prompt:
        return self._prompts.get_or_make(
            content_digest(text.encode()), lambda: self.checkpoint.prompts.encode([text])[0]
        )


def _mask_channels(mask: Tensor, codec: LatentCodec) -> Tensor:
    """[H, W] bool -> [L, patch * patch] float32."""
    return mask_pixels(mask.float()[None, None], codec.patch, codec.pack)[0]


@contextmanager
def _phase(timings: EditTimings, name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    setattr(timings, name, 1000 * (time.perf_counter() - started))
