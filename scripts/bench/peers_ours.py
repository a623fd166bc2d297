"""Edits by ours, by a strawman that leaves the unmasked tokens out, and by ours with a step cache on top."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from instgenie.batch_step import run_step
from instgenie.canvas import paste_back, to_picture
from instgenie.checkpoint import Checkpoint
from instgenie.edit_state import advance
from instgenie.editor import Editor
from instgenie.encoder import Encoder
from instgenie.fidelity import DEFAULT_HALO
from instgenie.models.flux import FluxForward
from instgenie.models.segment import KeyValue, Segment
from instgenie.request import EditRequest


class OurEdits:
    """Edits with an editor that others may share. `record` makes what they read, and is not part of the edit."""

    def __init__(
        self, editor: Editor, *, cached: bool = True, halo: int = DEFAULT_HALO, refreshes: int | None = None
    ) -> None:
        """Args:
        cached, halo, refreshes: of the requests.
        """
        self._editor, self._cached, self._halo, self._refreshes = editor, cached, halo, refreshes
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
        return replace(request, cached=self._cached, halo=self._halo, refreshes=self._refreshes)


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


class SparseSteps(FluxForward):
    """A forward that computes one step in `interval`, and extrapolates the velocities of those between on a line.

    The `first` steps are all computed, and any that corrects records, or for which no two steps of as many tokens are
    known. One edit at a time: `begin` says when another one begins.
    """

    def __init__(self, forward: FluxForward, interval: int, first: int = 3) -> None:
        super().__init__(forward.transformer)
        self._interval, self._first = interval, first
        self.begin()

    def begin(self) -> None:
        """Forget the last edit."""
        self._step = 0
        self._known: list[tuple[int, list[Tensor]]] = []  # steps that were computed, the last two

    def __call__(self, segments: Sequence[Segment], on_block: Callable[[int], None] = lambda _: None) -> list[Tensor]:
        """See `FluxForward`."""
        step, self._step = self._step, self._step + 1
        is_between = step >= self._first and (step - self._first + 1) % self._interval != 0
        corrects = any(segment.recorder is not None for segment in segments)
        lengths = [len(segment.tokens) for segment in segments]
        self._known = [known for known in self._known if [len(velocity) for velocity in known[1]] == lengths]
        if is_between and not corrects and len(self._known) == 2:
            return self._extrapolated(step)
        velocities = super().__call__(segments, on_block)
        self._known = [*self._known[-1:], (step, velocities)]
        return velocities

    def _extrapolated(self, step: int) -> list[Tensor]:
        (before, old), (last, new) = self._known
        reach = (step - last) / (last - before)
        return [torch.lerp(a.float(), b.float(), 1 + reach).to(b.dtype) for a, b in zip(old, new, strict=True)]


class SparseEdits(OurEdits):
    """Ours, computing one step in `interval`, one edit at a time."""

    def __init__(self, editor: Editor, interval: int) -> None:
        super().__init__(editor)
        self._sparse = SparseSteps(editor.checkpoint.forward, interval)
        self._forward = self._sparse

    def edit(self, requests: Sequence[EditRequest]) -> list[Image.Image]:
        """See `OurEdits`."""
        pictures = []
        for request in requests:
            self._sparse.begin()
            pictures += super().edit([request])
        return pictures
