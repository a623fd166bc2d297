"""What the model is told of an edit's tokens in every step alike."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from instgenie.token_index import TokenIndex


@dataclass(frozen=True, eq=False)
class FixedInputs:
    """Inputs beside the latents. Those of the active tokens are selected once for all steps.

    Attributes:
        ids: [L, 3] position ids of all tokens.
        condition: [L, K] fill-conditioning channels, or None for models without.
    """

    index: TokenIndex
    ids: Tensor
    condition: Tensor | None

    @cached_property
    def active_ids(self) -> Tensor:
        """[M, 3], those of the active tokens."""
        return self.ids.index_select(0, self.index.active_positions)

    @cached_property
    def active_condition(self) -> Tensor | None:
        """[M, K], that of the active tokens."""
        return None if self.condition is None else self.condition.index_select(0, self.index.active_positions)
