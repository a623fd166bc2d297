"""Attention of packed segments against plain attention over each segment's own keys."""

from __future__ import annotations

import torch
from torch import Tensor

from instgenie.models.attention import segment_attention
from instgenie.models.segment import KeyValue, Layout, Segment

CPU = torch.device("cpu")


class FixedContext:
    """The same context in every block but for its number, which is added to the values."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self.key, self.value = key, value

    def context(self, block: int) -> KeyValue:
        return KeyValue(self.key, self.value + block)


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[S, H, D] queries over [N, H, D] keys and values, in float64 and by the book -> [S, H * D]."""
    scores = torch.einsum("shd,nhd->hsn", query.double(), key.double()) / query.shape[-1] ** 0.5
    return torch.einsum("hsn,nhd->shd", scores.softmax(-1), value.double()).flatten(1).float()


def test_each_segment_sees_its_own_tokens_and_context_alone() -> None:
    generator = torch.Generator().manual_seed(0)

    def random(tokens: int) -> Tensor:
        return torch.randn(tokens, 2, 4, generator=generator)

    layout = Layout([2, 1, 3], [3, 4, 2], CPU)
    query, key, value = random(15), random(15), random(15)
    contexts = [FixedContext(random(5), random(5)), None, FixedContext(random(1), random(1))]
    segments = [
        Segment(torch.zeros(m, 1), torch.zeros(m, 3), torch.zeros(t, 1), torch.zeros(1), 0.5, context=context)
        for t, m, context in zip(layout.text_lengths, layout.image_lengths, contexts, strict=True)
    ]
    output = segment_attention(query, key, value, layout, segments, block=2)
    assert output.shape == (15, 8)
    start = 0
    for length, context in zip(layout.joint_lengths, contexts, strict=True):
        part = slice(start, start + length)
        keys, values = key[part], value[part]
        if context is not None:
            keys, values = torch.cat([keys, context.key]), torch.cat([values, context.value + 2])
        torch.testing.assert_close(output[part], plain_attention(query[part], keys, values))
        start += length
