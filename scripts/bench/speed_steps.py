"""Steps of the medium Flux that are timed: dense, on masked tokens, and those that step caches leave out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from diffusers import FluxTransformer2DModel
from diffusers.hooks import FirstBlockCacheConfig
from torch import Tensor

from bench.engine import CHANNELS, TEXT_DIM, TEXT_TOKENS
from instgenie.conditioning import image_ids
from instgenie.edit_state import EditState, Guidance, leap, start_edit
from instgenie.known_velocity import KnownVelocity
from instgenie.models.flux import FluxForward
from instgenie.models.segment import Segment
from instgenie.records import RecordForm, StepContext, StepRecorder
from instgenie.text import Prompt
from instgenie.token_index import TokenIndex
from instgenie.trajectory import Trajectory
from instgenie_cache import MemoryStore


class Steps:
    """One step at a time of a transformer, from random inputs.

    Attributes:
        forward: ours.
        side: of the square grid, in tokens.
    """

    def __init__(self, transformer: FluxTransformer2DModel, side: int) -> None:
        self.forward, self.side = FluxForward(transformer), side
        torch.manual_seed(1)
        dtype = self.forward.dtype
        self._tokens = torch.randn(side * side, CHANNELS, dtype=dtype)
        self._text = torch.randn(TEXT_TOKENS, TEXT_DIM, dtype=dtype)
        self._pooled = torch.randn(TEXT_DIM, dtype=dtype)
        self._ids = image_ids((side, side))
        self._form = RecordForm(
            dtype, side * side, self.forward.num_heads, self.forward.head_dim, self.forward.num_blocks
        )
        store = MemoryStore(self._form.size(1).num_bytes)
        with store.create("template", self._form.size(1)) as writer:
            self.forward([self._segment(recorder=StepRecorder(writer, 0))])
            writer.commit()
        lease = store.lease("template")
        assert lease is not None
        self._lease = lease
        self._states: dict[Tensor, EditState] = {}

    @torch.inference_mode()
    def diffusers(self, batch: int) -> Tensor:
        """[B, L, C] of diffusers' own forward."""
        answer: Tensor = self.forward.transformer(
            hidden_states=self._tokens.expand(batch, -1, -1),
            encoder_hidden_states=self._text.expand(batch, -1, -1),
            pooled_projections=self._pooled.expand(batch, -1),
            timestep=torch.full((batch,), 0.5),
            img_ids=self._ids,
            txt_ids=torch.zeros(TEXT_TOKENS, 3),
            return_dict=False,
        )[0]
        return answer

    def dense(self, batch: int) -> list[Tensor]:
        """Ours, all tokens of each edit."""
        return self.forward([self._segment() for _ in range(batch)])

    def masked(self, active: Tensor, batch: int) -> list[Tensor]:
        """Ours, the tokens at `active` [M] of each edit; K and V of the others are read from memory."""
        inactive = torch.ones(self.side**2, dtype=torch.bool)
        inactive[active] = False
        rest = inactive.nonzero()[:, 0]
        return self.forward([self._segment(active, rest) for _ in range(batch)])

    def extrapolated(self, active: Tensor, batch: int) -> int:
        """A step that a step cache leaves out, of edits with those tokens [M] masked: how many were taken."""
        return sum(leap(replace(self._state(active))) for _ in range(batch))

    def _state(self, active: Tensor) -> EditState:
        """After two steps, before one that is not computed; the same each time, for what it takes is not the step's."""
        if active not in self._states:
            editable = torch.zeros(self.side**2, dtype=torch.bool)
            editable[active] = True
            noise, clean = torch.randn(2, self.side**2, CHANNELS)
            guidance = Guidance((Prompt(self._text, self._pooled),), 1.0, False)
            index = TokenIndex((self.side, self.side), editable, editable)
            state = start_edit(index, Trajectory(clean, noise), noise, None, guidance, (1.0, 0.75, 0.5, 0.25))
            state.step, state.extrapolated = 2, frozenset({2})
            state.known = tuple(KnownVelocity(step, torch.randn(len(active), CHANNELS)) for step in (0, 1))
            self._states[active] = state
        return self._states[active]

    def _segment(
        self, active: Tensor | None = None, rest: Tensor | None = None, recorder: StepRecorder | None = None
    ) -> Segment:
        tokens, ids = (self._tokens, self._ids) if active is None else (self._tokens[active], self._ids[active])
        context = None if rest is None else StepContext.open(self._lease, 0, self._form, rest)
        return Segment(tokens, ids, self._text, self._pooled, 0.5, context=context, recorder=recorder)


@contextmanager
def skipped_step(steps: Steps, batch: int) -> Iterator[Callable[[], object]]:
    """A step that diffusers' first-block cache skips, as often as it is called; the cache is gone after the block.

    What skips a step in earnest is a threshold, and so the picture; what a skipped one takes does not depend on that.
    """
    transformer = steps.forward.transformer
    transformer.enable_cache(FirstBlockCacheConfig(threshold=math.inf))

    def step() -> object:
        with transformer.cache_context("cond"):
            return steps.diffusers(batch)

    try:
        step()  # computes all, and keeps what the others skip
        yield step
    finally:
        transformer.disable_cache()
