"""Which latent tokens an edit computes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from instgenie.errors import MaskError, ShapeError


@dataclass(frozen=True, eq=False)
class TokenIndex:
    """Positions of an edit's tokens in the packed latent grid, in raster order.

    Attributes:
        grid: (rows, columns) of tokens.
        editable: [L] bool, tokens whose latents the edit may change: those with a masked pixel.
        active: [L] bool, tokens that are computed: the editable ones and their halo.
    """

    grid: tuple[int, int]
    editable: Tensor
    active: Tensor

    @property
    def num_tokens(self) -> int:
        """L, all tokens of the grid."""
        return self.grid[0] * self.grid[1]

    @cached_property
    def num_active(self) -> int:
        """M, tokens that are computed."""
        return int(self.active.sum())

    @cached_property
    def active_positions(self) -> Tensor:
        """[M] int64, positions of the active tokens."""
        return self.active.nonzero()[:, 0]

    @cached_property
    def editable_positions(self) -> Tensor:
        """[E] int64, positions of the editable tokens."""
        return self.editable.nonzero()[:, 0]

    @cached_property
    def editable_among_active(self) -> Tensor:
        """[E] int64, where the editable tokens are among the active ones."""
        return self.editable[self.active_positions].nonzero()[:, 0]

    @cached_property
    def context_positions(self) -> Tensor:
        """[L - M] int64, positions of the tokens whose K and V come from the record."""
        return (~self.active).nonzero()[:, 0]

    @cached_property
    def all_active(self) -> TokenIndex:
        """The same edit with every token computed: the dense path."""
        return TokenIndex(self.grid, self.editable, torch.ones_like(self.active))

    def to(self, device: torch.device) -> TokenIndex:
        """The same index with its tensors on the device."""
        return TokenIndex(self.grid, self.editable.to(device), self.active.to(device))


def token_index(mask: Tensor, patch: int, halo: int) -> TokenIndex:
    """Max-pool a pixel mask to the token grid and widen it.

    Args:
        mask: [H, W] bool, True where the picture is edited; H and W are multiples of `patch`.
        patch: side in pixels of the square that one token covers.
        halo: tokens around the editable ones that are computed too, so that the seam sees fresh context.
    Raises:
        ShapeError: a side of the mask is no multiple of `patch`.
        MaskError: the mask selects nothing.
    """
    height, width = mask.shape
    if height % patch or width % patch:
        raise ShapeError(f"a mask of {width}x{height} pixels is not made of {patch}x{patch} tokens")
    if not bool(mask.any()):
        raise MaskError("mask", "selects no pixel")
    editable = functional.max_pool2d(mask.float()[None, None], patch)
    active = functional.max_pool2d(editable, 2 * halo + 1, stride=1, padding=halo) if halo else editable
    grid = (height // patch, width // patch)
    return TokenIndex(grid, editable.flatten() > 0, active.flatten() > 0)
