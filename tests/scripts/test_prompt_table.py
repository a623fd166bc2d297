"""Prompts that are encoded together are those that the encoder gives one by one."""

from __future__ import annotations

import torch

from builtin_recipe.caption_table import CaptionTable
from builtin_recipe.concepts import CONCEPTS
from builtin_recipe.prompt_table import encode_all
from builtin_recipe.text_source import load_encoder
from instgenie.checkpoint import BUILTIN


def test_the_table_holds_what_the_encoder_gives() -> None:
    encoder = load_encoder(BUILTIN, text_tokens=8)
    texts = CaptionTable([CONCEPTS[0], CONCEPTS[30], CONCEPTS[-1]], "cpu").texts[::5]
    texts += ["a very long caption that is cut somewhere in the middle of it", "cat", ""]
    table = encode_all(encoder, texts, "cpu")
    assert table.states.shape == (len(texts), 8, 384)
    assert len({len(ids) for ids in encoder.tokenizer(texts)["input_ids"]}) > 3
    for number, prompt in enumerate(encoder.encode(texts)):
        assert torch.allclose(table.states[number].float(), prompt.states, atol=0.02, rtol=0.01)  # bf16
        assert torch.allclose(table.pooled[number].float(), prompt.pooled, atol=0.02, rtol=0.01)
        assert torch.equal(table.states[number] == 0, (prompt.states == 0))
