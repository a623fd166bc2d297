"""Edits by ours, and by a strawman that leaves the unmasked tokens out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from instgenie.batch_step import run_step
from instgenie.canvas import paste_back, to_picture
from instgenie.checkpoint import Checkpoint
from instgenie.edit_state import advance
from instgenie.editor import Editor
from instgenie.encoder import Encoder
from instgenie.fidelity import DEFAULT_HALO, DEFAULT_STEP_CACHE
from instgenie.models.flux import FluxForward
from instgenie.models.segment import KeyValue
from instgenie.request import EditRequest


class OurEdits:
    """Edits with an editor that others may share. `record` makes what they read, and is not part of the edit."""

    def __init__(
        self,
        editor: Editor,
        *,
        cached: bool = True,
        halo: int = DEFAULT_HALO,
        refreshes: int | None = None,
        step_cache: int = DEFAULT_STEP_CACHE,
    ) -> None:
        """Args:
        cached, halo, refreshes, step_cache: of the requests.
        """
        self._editor, self._cached = editor, cached
        self._settings: dict[str, Any] = {"halo": halo, "refreshes": refreshes, "step_cache": step_cache}
        self._forward = editor.checkpoint.forward

    def record(self, requests: Sequence[EditRequest]) -> None:
        """Make the records of the requests' templates, where they are not there."""
        for request in requests if self._cached else ():
            with self._editor.start(self._ours(request)) as running:
                assert running.timings.cache in ("hit", "cold")

    def edit(self, requests: Sequence[EditRequest]) -> list[Image.Image]:
        """The edited pictures: all edits take each step together."""
        running = [self._editor.start(self._ours(request)) for request in requests]
        assert all(one.timings.cache == ("hit" if self._cached else "off") for one in running)
        while not running[0].done:
            run_step(self._forward, running)
        return [one.finish().picture for one in running]

    def _ours(self, request: EditRequest) -> EditRequest:
        return replace(request, cached=self._cached, **self._settings)


class _NoContext:
    """A context without tokens."""

    def __init__(self, forward: FluxForward) -> None:
        self._nothing = torch.zeros(0, forward.num_heads, forward.head_dim, dtype=forward.dtype, device=forward.device)

    def context(self, _: int) -> KeyValue:
        """See `ContextSource`."""
        return KeyValue(self._nothing, self._nothing)


class MaskedAlone:
    """The strawman: the masked tokens and their halo are all that the model sees. No records."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._encoder = Encoder(checkpoint, "raw", 0.0)

    @torch.inference_mode()
    def edit(self, requests: Sequence[EditRequest]) -> list[Image.Image]:
        """The edited pictures, one after the other."""
        return [self._edit(request) for request in requests]

    def _edit(self, request: EditRequest) -> Image.Image:
        prepared = self._encoder.prepare(request)
        state, _ = self._encoder.encode(prepared)
        while not state.done:
            advance(self._checkpoint.forward, [state], [_NoContext(self._checkpoint.forward)])
        canvas = to_picture(self._checkpoint.codec.decode(state.latents[None], state.index.grid))
        return paste_back(request.picture, canvas, request.mask, prepared.window, request.feather)
