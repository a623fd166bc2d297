"""An edit as far as it can be told without the model."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from instgenie.fidelity import default_refreshes, refresh_steps
from instgenie.request import EditRequest
from instgenie.step_cache import extrapolated_steps
from instgenie.token_index import TokenIndex
from instgenie.window import Window


@dataclass(frozen=True, slots=True, eq=False)
class PreparedEdit:
    """A request, what the model will see of it, and how much of it is to be computed. All in the host's memory.

    Attributes:
        canvas: RGB of the canvas's size.
        mask: [H, W] bool on the canvas.
        index: its tokens, on the CPU.
        key: of its template.
        steps: that it takes; strength counts.
        passes: of the model, each step.
    """

    request: EditRequest
    window: Window
    canvas: Image.Image
    mask: Tensor
    index: TokenIndex
    key: str
    steps: int
    passes: int

    @property
    def refresh_steps(self) -> frozenset[int]:
        """Of its own steps, those that compute all tokens, so that records can be corrected. Dense edits have none."""
        asked = self.request.refreshes
        refreshes = default_refreshes(self.steps) if asked is None else asked
        return frozenset(refresh_steps(refreshes, self.steps) if self.is_cached else ())

    @property
    def extrapolated_steps(self) -> frozenset[int]:
        """Of its own steps, those that are not computed."""
        return extrapolated_steps(self.request.step_cache, self.steps, self.refresh_steps)

    @property
    def is_cached(self) -> bool:
        """Whether it asks for its template's records: it is not dense, and leaves tokens that it does not compute."""
        return self.request.cached and self.index.num_active < self.index.num_tokens
