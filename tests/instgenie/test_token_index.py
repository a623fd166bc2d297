"""Token indexes against a slow reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instgenie.errors import MaskError, ShapeError
from instgenie.token_index import token_index
from tests.instgenie.tiny_flux import token_masks


def touched(mask: Tensor, patch: int) -> list[list[bool]]:
    """Tokens with a masked pixel."""
    rows, columns = mask.shape[0] // patch, mask.shape[1] // patch
    return [
        [
            any(bool(mask[y, x]) for y in range(r * patch, (r + 1) * patch) for x in range(c * patch, (c + 1) * patch))
            for c in range(columns)
        ]
        for r in range(rows)
    ]


def editable_positions(tokens: list[list[bool]]) -> list[int]:
    """Raster positions of the set tokens."""
    return [i for i, is_set in enumerate(token for row in tokens for token in row) if is_set]


def widened(tokens: list[list[bool]], halo: int) -> list[list[bool]]:
    """Tokens within `halo` rows and columns of a set one."""
    rows, columns = len(tokens), len(tokens[0])
    near = range(-halo, halo + 1)
    return [
        [
            any(0 <= r + i < rows and 0 <= c + j < columns and tokens[r + i][c + j] for i in near for j in near)
            for c in range(columns)
        ]
        for r in range(rows)
    ]


@settings(deadline=None, max_examples=25)
@given(token_masks(max_side=6), st.integers(1, 4), st.integers(0, 3), st.data())
def test_equals_the_slow_reference(tokens: Tensor, patch: int, halo: int, data: st.DataObject) -> None:
    """Pixels are set anywhere inside the chosen tokens."""
    mask = torch.zeros(tokens.shape[0] * patch, tokens.shape[1] * patch, dtype=torch.bool)
    for row, column in tokens.nonzero().tolist():
        pixels = data.draw(st.sets(st.tuples(*[st.integers(0, patch - 1)] * 2), min_size=1, max_size=3))
        for y, x in pixels:
            mask[row * patch + y, column * patch + x] = True
    index = token_index(mask, patch, halo)
    editable = touched(mask, patch)
    assert index.editable.view(tokens.shape).tolist() == editable == tokens.tolist()
    assert index.active.view(tokens.shape).tolist() == widened(editable, halo)
    assert index.grid == tuple(tokens.shape)
    assert index.num_tokens == tokens.numel()
    assert index.num_active == len(index.active_positions)
    positions = [*index.active_positions.tolist(), *index.context_positions.tolist()]
    assert sorted(positions) == list(range(index.num_tokens))
    assert index.active_positions.tolist() == sorted(index.active_positions.tolist())
    assert index.context_positions.tolist() == sorted(index.context_positions.tolist())
    assert index.editable_positions.tolist() == editable_positions(editable)
    assert torch.equal(index.active_positions[index.editable_among_active], index.editable_positions)
    everything = index.all_active
    assert everything.num_active == index.num_tokens
    assert len(everything.context_positions) == 0
    assert torch.equal(everything.editable, index.editable)


def test_halo_is_a_square_of_tokens() -> None:
    mask = torch.zeros(5 * 8, 7 * 8, dtype=torch.bool)
    mask[2 * 8 + 7, 3 * 8] = True  # the last row of its token
    index = token_index(mask, 8, 1)
    assert index.editable.nonzero()[:, 0].tolist() == [17]
    assert index.active_positions.tolist() == [9, 10, 11, 16, 17, 18, 23, 24, 25]


def test_halo_larger_than_the_grid() -> None:
    mask = torch.zeros(8, 16, dtype=torch.bool)
    mask[0, 0] = True
    assert token_index(mask, 8, 64).num_active == 2


def test_empty_mask() -> None:
    with pytest.raises(MaskError, match="selects no pixel"):
        token_index(torch.zeros(8, 8, dtype=torch.bool), 8, 1)


@pytest.mark.parametrize("size", [(8, 12), (12, 8)])
def test_mask_that_is_not_made_of_tokens(size: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match="not made of 8x8 tokens"):
        token_index(torch.ones(size, dtype=torch.bool), 8, 1)
