"""Inputs that are the same in every step."""

from __future__ import annotations

import torch

from instgenie.fixed_inputs import FixedInputs
from instgenie.token_index import token_index

INDEX = token_index(torch.tensor([[True, False], [False, True]]), 1, 0)
IDS = torch.arange(12.0).view(4, 3)


def test_those_of_active_tokens_are_selected_once() -> None:
    condition = torch.arange(20.0).view(4, 5)
    inputs = FixedInputs(INDEX, IDS, condition)
    assert torch.equal(inputs.active_ids, IDS[[0, 3]])
    assert inputs.active_condition is not None
    assert torch.equal(inputs.active_condition, condition[[0, 3]])
    assert inputs.active_ids is inputs.active_ids
    assert inputs.active_condition is inputs.active_condition


def test_models_without_fill_conditioning_have_none() -> None:
    assert FixedInputs(INDEX, IDS, None).active_condition is None
