"""Attention of packed segments against plain attention over each segment's own keys."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from instgenie.models.attention import SegmentAttention
from instgenie.models.buckets import bucket
from instgenie.models.parts import Heads
from instgenie.models.segment import KeyValue, Layout, Segment

CPU = torch.device("cpu")


class FixedContext:
    """The same context in every block but for its number, which is added to the values."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self.key, self.value = key, value
        self.asked: list[int] = []

    def context(self, block: int) -> KeyValue:
        self.asked.append(block)
        return KeyValue(self.key, self.value + block)


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[S, H, D] queries over [N, H, D] keys and values, in float64 and by the book -> [S, H * D]."""
    scores = torch.einsum("shd,nhd->hsn", query.double(), key.double()) / query.shape[-1] ** 0.5
    return torch.einsum("hsn,nhd->shd", scores.softmax(-1), value.double()).flatten(1).float()


def random_heads(tokens: int, generator: torch.Generator) -> Tensor:
    """[tokens, 2, 4]."""
    return torch.randn(tokens, 2, 4, generator=generator)


def random_tokens(layout: Layout, generator: torch.Generator) -> Heads:
    """Of the joined tensor."""
    query, key, value = (random_heads(layout.joint_size, generator) for _ in range(3))
    return Heads(query, key, value)


def segments_of(layout: Layout, contexts: Sequence[FixedContext | None]) -> list[Segment]:
    """Segments of these lengths and contexts; what else is in them does not matter to attention."""
    return [
        Segment(torch.zeros(m, 1), torch.zeros(m, 3), torch.zeros(t, 1), torch.zeros(1), 0.5, context=context)
        for t, m, context in zip(layout.text_lengths, layout.image_lengths, contexts, strict=True)
    ]


def check(output: Tensor, heads: Heads, layout: Layout, contexts: Sequence[FixedContext | None], block: int) -> None:
    """Compare with attention of each segment by itself."""
    query, key, value = heads
    start = 0
    for length, context in zip(layout.joint_lengths, contexts, strict=True):
        part = slice(start, start + length)
        keys, values = key[part], value[part]
        if context is not None:
            keys, values = torch.cat([keys, context.key]), torch.cat([values, context.value + block])
        torch.testing.assert_close(output[part], plain_attention(query[part], keys, values))
        start += length


def test_each_segment_sees_its_own_tokens_and_context_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    layout = Layout([2, 1, 3], [3, 4, 2], CPU)
    contexts = [
        FixedContext(random_heads(5, generator), random_heads(5, generator)),
        None,
        FixedContext(random_heads(1, generator), random_heads(1, generator)),
    ]
    heads = random_tokens(layout, generator)
    output = SegmentAttention(segments_of(layout, contexts))(*heads, layout, block=2)
    assert output.shape == (15, 8)
    check(output, heads, layout, contexts, block=2)


def test_segments_share_a_context_in_every_block_whatever_their_lengths() -> None:
    generator = torch.Generator().manual_seed(1)
    shared, other = (FixedContext(random_heads(n, generator), random_heads(n, generator)) for n in (5, 9))
    # The same context after as many tokens, after more, after another context that is longer, and after none.
    contexts = [shared, shared, shared, other, shared, None, shared]
    layout = Layout([2, 1, 3, 2, 1, 2, 2], [3, 4, 3, 2, 1, 3, 3], CPU)
    attention = SegmentAttention(segments_of(layout, contexts))
    for block in range(3):
        heads = random_tokens(layout, generator)
        check(attention(*heads, layout, block), heads, layout, contexts, block)
    assert shared.asked == [0] * 4 + [1] * 4 + [2] * 4  # of five segments, one took what the one before it had


def test_padding_is_not_attended_to_and_comes_back_as_zeros() -> None:
    generator = torch.Generator().manual_seed(2)
    layout = Layout([2, 1], [3, 4], CPU, bucket)
    contexts = [FixedContext(random_heads(5, generator), random_heads(5, generator)), None]
    heads = random_tokens(layout, generator)
    output = SegmentAttention(segments_of(layout, contexts))(*heads, layout, block=0)
    check(output, heads, layout, contexts, block=0)
    assert output.shape == (16, 8)
    assert output[10:].count_nonzero() == 0
