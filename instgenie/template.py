"""The template lane: the pass that makes a template's records."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from instgenie.codecs import CodecName
from instgenie.conditioning import image_ids
from instgenie.keyframe_recorder import KeyframeRecorder
from instgenie.keyframes import Keyframes
from instgenie.models.flux import FluxForward
from instgenie.models.segment import Segment
from instgenie.records import RecordForm, StepRecorder
from instgenie.text import Prompt
from instgenie.trajectory import Trajectory
from instgenie_cache import RecordStore


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """A picture as the model sees it, and everything that fixes its records.

    Attributes:
        key: the template's name in stores: its namespace and the key of its content.
        grid: (rows, columns) of tokens.
        condition: [L, K] fill conditioning with nothing masked, or None for models without.
        prompt: the template prompt, empty by default: one record then serves both guidance branches.
        sigmas: noise levels of the full schedule.
        codec: of its records.
        drift: a step is recorded only where K and V drifted by more than this, relatively, from the last one that was:
            see `DriftMeter`. 0 records every step.
    """

    key: str
    grid: tuple[int, int]
    trajectory: Trajectory
    condition: Tensor | None
    prompt: Prompt
    guidance: float | None
    sigmas: tuple[float, ...]
    codec: CodecName = "raw"
    drift: float = 0.0

    @property
    def steps(self) -> int:
        """Denoising steps of the full schedule."""
        return len(self.sigmas) - 1

    def form(self, model: FluxForward) -> RecordForm:
        """What the model's records of this template look like."""
        tokens = self.grid[0] * self.grid[1]
        return RecordForm(model.dtype, tokens, model.num_heads, model.head_dim, model.num_blocks, self.codec)


def record_template(
    model: FluxForward, template: Template, store: RecordStore, check: Callable[[], None] = lambda: None
) -> None:
    """Run the template lane and commit its records.

    Args:
        check: called before each step; what it raises ends the lane, and nothing of the template stays.

    Raises:
        CacheError: the store refused the template, before anything was computed, or a record of it; nothing of the
            template stays in it.
    """
    started = time.perf_counter()
    ids = image_ids(template.grid, model.device)
    with store.create(template.key, template.form(model).size(template.steps)) as writer:
        drifting = KeyframeRecorder(writer, template.codec, template.drift) if template.drift else None
        for step, sigma in enumerate(template.sigmas[:-1]):
            check()
            latents = template.trajectory.at(sigma)
            tokens = latents if template.condition is None else torch.cat([latents, template.condition], dim=-1)
            prompt, recorder = template.prompt, drifting or StepRecorder(writer, step, template.codec)
            model([Segment(tokens, ids, prompt.states, prompt.pooled, sigma, template.guidance, recorder=recorder)])
            if drifting is not None:
                drifting.end_step(step)
        keyframes = Keyframes.every(template.steps) if drifting is None else drifting.keyframes(template.steps)
        cost_ms = 1000 * (time.perf_counter() - started)
        writer.commit(cost_ms, steps=len(keyframes.kept), note=keyframes.note)
