"""A template as the engine sees it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from instgenie.codecs import CodecName
from instgenie.models.flux import FluxForward
from instgenie.records import RecordForm
from instgenie.text import Prompt
from instgenie.trajectory import Trajectory


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
