"""Attention of packed segments: each sees its own tokens and its own context, nothing of its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from instgenie.models.segment import KeyValue, Layout, Segment


def segment_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, segments: Sequence[Segment], block: int
) -> Tensor:
    """Active queries over all keys of their segment: text, active image tokens, context from the record.

    The keys' order does not matter to attention, so the context is appended rather than put back in raster order.

    Args:
        query, key, value: [S, H, D] joined tokens; queries and keys normed and rotated.
    Returns:
        [S, H * D] in the joined layout.
    """
    parts = zip(*(x.split(layout.joint_lengths) for x in (query, key, value)), strict=True)
    outputs = []
    for segment, text_tokens, (q, k, v) in zip(segments, layout.text_lengths, parts, strict=True):
        if segment.recorder is not None:
            segment.recorder.record(block, KeyValue(k[text_tokens:], v[text_tokens:]))
        if segment.context is not None and block >= segment.full_blocks:
            context = segment.context.context(block)
            k, v = torch.cat([k, context.key]), torch.cat([v, context.value])
        heads_first = (x.transpose(0, 1)[None] for x in (q, k, v))  # [1, H, S, D]
        outputs.append(functional.scaled_dot_product_attention(*heads_first)[0].transpose(0, 1).flatten(1))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
