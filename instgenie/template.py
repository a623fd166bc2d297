"""The template lane: the pass that makes a template's records."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from instgenie.conditioning import image_ids
from instgenie.models.flux import FluxForward
from instgenie.models.segment import Segment
from instgenie.records import StepRecorder
from instgenie.text import Prompt
from instgenie.trajectory import Trajectory
from instgenie_cache import RecordStore


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """A picture as the model sees it, and everything that fixes its records.

    Attributes:
        key: template key.
        grid: (rows, columns) of tokens.
        condition: [L, K] fill conditioning with nothing masked, or None for models without.
        prompt: the template prompt, empty by default: one record then serves both guidance branches.
        sigmas: noise levels of the full schedule.
    """

    key: str
    grid: tuple[int, int]
    trajectory: Trajectory
    condition: Tensor | None
    prompt: Prompt
    guidance: float | None
    sigmas: tuple[float, ...]


def record_template(model: FluxForward, template: Template, store: RecordStore, steps_per_forward: int = 1) -> None:
    """Run the template lane and commit its records.

    The lane's steps do not depend on each other: `steps_per_forward` of them share one packed forward.

    Raises:
        CacheError: the store refused a record; nothing of the template stays in it.
    """
    ids = image_ids(template.grid)
    levels = list(enumerate(template.sigmas[:-1]))
    for start in range(0, len(levels), steps_per_forward):
        segments = []
        for step, sigma in levels[start : start + steps_per_forward]:
            latents = template.trajectory.at(sigma)
            tokens = latents if template.condition is None else torch.cat([latents, template.condition], dim=-1)
            prompt, recorder = template.prompt, StepRecorder(store, template.key, step)
            segments.append(
                Segment(tokens, ids, prompt.states, prompt.pooled, sigma, template.guidance, recorder=recorder)
            )
        model(segments)
    store.commit(template.key)
