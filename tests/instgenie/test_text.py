"""Prompt encoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import FluxFillPipeline
from torch import Tensor

from instgenie.checkpoint import Checkpoint
from instgenie.text import Prompt

TEXTS = ["a red apple", "", "a much longer prompt, of more letters than the model takes", "a red apple"]
KINDS = pytest.mark.parametrize("kind", ["builtin_kind", "flux_fill_kind"])


@pytest.fixture
def checkpoint(kind: str, request: pytest.FixtureRequest) -> Checkpoint:
    """The checkpoint that the parameter names."""
    value = request.getfixturevalue(kind)
    assert isinstance(value, Checkpoint)
    return value


def same(first: Prompt, second: Prompt) -> bool:
    """Whether both tensors agree."""
    return torch.equal(first.states, second.states) and torch.equal(first.pooled, second.pooled)


@KINDS
def test_result_does_not_depend_on_the_list(checkpoint: Checkpoint) -> None:
    together = checkpoint.prompts.encode(TEXTS)
    assert len(together) == len(TEXTS)
    for text, prompt in zip(TEXTS, together, strict=True):
        assert same(prompt, checkpoint.prompts.encode([text])[0])
    assert same(together[0], together[3])
    assert not same(together[0], together[1])


@KINDS
def test_every_prompt_has_the_same_shape(checkpoint: Checkpoint) -> None:
    for prompt in checkpoint.prompts.encode(TEXTS):
        assert prompt.states.shape == (checkpoint.settings.text_tokens, 32)
        assert prompt.pooled.shape == (32,)
        assert prompt.states.dtype == prompt.pooled.dtype == torch.float32
        assert prompt.num_bytes == 4 * (8 * 32 + 32)


@KINDS
def test_no_texts(checkpoint: Checkpoint) -> None:
    assert checkpoint.prompts.encode([]) == []


def test_bert_states_past_the_end_are_zero(builtin_kind: Checkpoint) -> None:
    (prompt,) = builtin_kind.prompts.encode(["ab"])  # start, a, b, end
    assert (prompt.states[:4].abs().sum(1) > 0).all()
    assert not prompt.states[4:].any()


def test_bert_cuts_long_prompts(builtin_kind: Checkpoint) -> None:
    cut, longer, other = builtin_kind.prompts.encode(["abcdefghij", "abcdefghijklm", "abcdeXghij"])
    assert (cut.states.abs().sum(1) > 0).all()
    assert same(cut, longer)
    assert not same(cut, other)


def test_bert_pools_the_mean_state_to_unit_variance(builtin_kind: Checkpoint) -> None:
    (prompt,) = builtin_kind.prompts.encode(["ab"])
    mean = prompt.states[:4].mean(0)
    torch.testing.assert_close(prompt.pooled, mean / mean.norm() * 32**0.5)


@pytest.mark.parametrize("text", TEXTS)
def test_flux_prompts_equal_the_pipelines(flux_fill_kind: Checkpoint, tiny_flux_fill: Path, text: str) -> None:
    pipeline = FluxFillPipeline.from_pretrained(tiny_flux_fill)
    states: Tensor
    pooled: Tensor
    with torch.inference_mode():
        states, pooled, _ = pipeline.encode_prompt(text, max_sequence_length=8)
    (prompt,) = flux_fill_kind.prompts.encode([text])
    assert torch.equal(prompt.states, states[0])
    torch.testing.assert_close(prompt.pooled, pooled[0])
