"""From requests to tensors: everything of an edit, and of a template, that comes before its first step."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from instgenie.canvas import canvas_mask, canvas_pixels, to_tensor
from instgenie.checkpoint import Checkpoint
from instgenie.codecs import CodecName, codec_version
from instgenie.conditioning import mask_pixels
from instgenie.content_cache import ContentCache
from instgenie.edit_state import EditState, Guidance, start_edit
from instgenie.flow import flow_sigmas
from instgenie.keyframes import drift_version
from instgenie.mask import bounding_box
from instgenie.prepared_edit import PreparedEdit
from instgenie.records import dtype_name
from instgenie.request import EditRequest
from instgenie.template import Template
from instgenie.text import Prompt
from instgenie.token_index import token_index
from instgenie.trajectory import Trajectory, seeded_noise
from instgenie.warm_request import WarmRequest
from instgenie.window import Window, all_windows, choose_window
from instgenie_cache import content_digest, template_key, template_name

_BUDGET_BYTES = 256 << 20


class Encoder:
    """Encodes with one checkpoint. Prompts and pictures that were encoded are kept by content.

    What encodes is for one thread; `window`, `windows`, `prepare` and `name` compute nothing on the device, and are for
    any.
    """

    def __init__(self, checkpoint: Checkpoint, codec: CodecName, drift: float) -> None:
        """Args:
        codec, drift: of templates.
        """
        self._checkpoint, self._codec, self._drift = checkpoint, codec, drift
        self._prompts: ContentCache[Prompt] = ContentCache(_BUDGET_BYTES, lambda prompt: prompt.num_bytes)
        self._latents: ContentCache[Tensor] = ContentCache(_BUDGET_BYTES, lambda latents: latents.nbytes)

    # On the host.

    def window(self, request: EditRequest) -> Window:
        """The part of the picture that the model will see."""
        size = request.picture.size
        box = bounding_box(request.mask) if request.crop else (0, 0, *size)
        return choose_window(*size, box, self._checkpoint.codec.patch, self._checkpoint.settings.canvas_tokens)

    def windows(self, request: WarmRequest) -> list[Window]:
        """The windows whose templates are to be recorded."""
        model, size = self._checkpoint, request.picture.size
        patch, canvas_tokens = model.codec.patch, model.settings.canvas_tokens
        if request.boxes is None:
            return all_windows(*size, patch, canvas_tokens)[: request.max_windows]
        return list(dict.fromkeys(choose_window(*size, box, patch, canvas_tokens) for box in request.boxes))

    def prepare(self, request: EditRequest) -> PreparedEdit:
        """What can be told of an edit without the model.

        Raises:
            InvalidInputError: the request does not fit the model.
        """
        window = self.window(request)
        # A copy: views with negative strides are legal masks, but no tensors.
        mask = torch.from_numpy(np.array(canvas_mask(request.mask, window)))
        index = token_index(mask, self._checkpoint.codec.patch, request.halo)
        canvas = canvas_pixels(request.picture, window)
        key = self.name(request, canvas, index.grid)
        sigmas = self._sigmas(request, index.num_tokens, request.strength)
        return PreparedEdit(request, window, canvas, mask, index, key, len(sigmas) - 1, self._passes(request))

    def name(self, request: EditRequest | WarmRequest, canvas: Image.Image, grid: tuple[int, int]) -> str:
        """Name in stores of the template that a canvas is for a request; nothing is encoded for it.

        The namespace is part of the name alone, not of what is hashed: stores keep tenants apart, and they can do so
        only by what they can read.
        """
        model = self._checkpoint
        settings: dict[str, str | int | float | bool | None] = {
            "revision": model.revision,
            "dtype": dtype_name(model.forward.dtype),
            "rows": grid[0],
            "columns": grid[1],
            "steps": self._steps(request),
            "seed": request.template_seed,
            "prompt": request.template_prompt,
            "guidance": self._scale(request) if model.distilled else None,
            "codec": codec_version(self._codec),
        }
        if self._drift:  # else the key is what it was before there were keyframes
            settings["drift"] = drift_version(self._drift)
        return template_name(request.namespace, template_key(canvas.tobytes(), settings))

    def grid(self, window: Window) -> tuple[int, int]:
        """(rows, columns) of a window's tokens."""
        patch = self._checkpoint.codec.patch
        return window.canvas_height // patch, window.canvas_width // patch

    # On the device.

    def encode(self, prepared: PreparedEdit) -> tuple[EditState, Template]:
        """An edit at its first noise level, and its template."""
        model, request = self._checkpoint, prepared.request
        device, index = model.forward.device, prepared.index
        content, pixels = prepared.canvas.tobytes(), to_tensor(prepared.canvas)
        clean = self._encode(content, pixels)
        template = self._template(request, prepared.key, clean, index.grid)
        sigmas = self._sigmas(request, index.num_tokens, request.strength)
        state = start_edit(
            index.to(device),
            template.trajectory,
            seeded_noise(tuple(clean.shape), request.seed).to(device),
            self._condition(content, pixels, prepared.mask),
            self._guidance(request),
            sigmas,
            first_step=template.steps + 1 - len(sigmas),
        )
        return state, template

    def template(self, request: WarmRequest, window: Window) -> Template:
        """The template that a window of a picture is."""
        canvas, grid = canvas_pixels(request.picture, window), self.grid(window)
        clean = self._encode(canvas.tobytes(), to_tensor(canvas))
        return self._template(request, self.name(request, canvas, grid), clean, grid)

    def text_tokens(self) -> int:
        """Text tokens of a short prompt: what edits are priced with before theirs is encoded."""
        return len(self._prompt("an edit").states)

    def _template(self, request: EditRequest | WarmRequest, key: str, clean: Tensor, grid: tuple[int, int]) -> Template:
        model = self._checkpoint
        condition = None
        if model.takes_fill:
            nothing = torch.zeros(grid[0] * model.codec.patch, grid[1] * model.codec.patch, dtype=torch.bool)
            condition = torch.cat([clean, self._mask_channels(nothing)], dim=-1)
        return Template(
            key,
            grid,
            Trajectory(clean, seeded_noise(tuple(clean.shape), request.template_seed).to(clean.device)),
            condition,
            self._prompt(request.template_prompt),
            self._scale(request) if model.distilled else None,
            self._sigmas(request, grid[0] * grid[1]),
            self._codec,
            self._drift,
        )

    def _encode(self, content: bytes, pixels: Tensor) -> Tensor:
        """[L, C] tokens of a canvas on the model's device, by content."""

        def encode() -> Tensor:
            return self._checkpoint.codec.encode(pixels)[0].to(self._checkpoint.forward.device)

        return self._latents.get_or_make(content_digest(content, repr(tuple(pixels.shape)).encode()), encode)

    def _condition(self, content: bytes, pixels: Tensor, mask: Tensor) -> Tensor | None:
        """[L, C + P*P] fill conditioning: the picture without its masked pixels, and the mask."""
        if not self._checkpoint.takes_fill:
            return None
        masked = self._encode(content_digest(content, mask.numpy().tobytes()).encode(), pixels * ~mask)
        return torch.cat([masked, self._mask_channels(mask)], dim=-1)

    def _mask_channels(self, mask: Tensor) -> Tensor:
        """[H, W] bool -> [L, patch * patch] float32 on the model's device."""
        codec = self._checkpoint.codec
        return mask_pixels(mask.float()[None, None], codec.patch, codec.pack)[0].to(self._checkpoint.forward.device)

    def _prompt(self, text: str) -> Prompt:
        return self._prompts.get_or_make(
            content_digest(text.encode()), lambda: self._checkpoint.prompts.encode([text])[0]
        )

    # What the request leaves to the model.

    def _sigmas(self, request: EditRequest | WarmRequest, tokens: int, strength: float = 1.0) -> tuple[float, ...]:
        return flow_sigmas(self._steps(request), self._checkpoint.shift, tokens, strength)

    def _steps(self, request: EditRequest | WarmRequest) -> int:
        return self._checkpoint.settings.steps if request.steps is None else request.steps

    def _scale(self, request: EditRequest | WarmRequest) -> float:
        scale = self._checkpoint.settings.guidance if request.guidance is None else request.guidance
        return float(scale)  # 30 and 30.0 are one template

    def _passes(self, request: EditRequest) -> int:
        return len(self._prompts_of(request))

    def _prompts_of(self, request: EditRequest) -> tuple[str, ...]:
        """What each pass of a step is told."""
        scale = self._scale(request)
        if self._checkpoint.distilled or scale == 1 or not request.prompt:  # else both branches would be the same
            return (request.prompt,)
        return ("",) if scale == 0 else (request.prompt, "")

    def _guidance(self, request: EditRequest) -> Guidance:
        prompts = tuple(self._prompt(text) for text in self._prompts_of(request))
        is_steered = self._checkpoint.distilled or len(prompts) > 1
        return Guidance(prompts, self._scale(request) if is_steered else 1.0, self._checkpoint.distilled)
