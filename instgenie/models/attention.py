"""Attention of packed segments: each sees its own tokens and its own context, nothing of its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from instgenie.models.segment import ContextSource, KeyValue, Layout, Segment, packed


class SegmentAttention:
    """Attention of the blocks of one forward."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments
        self._joined = JoinedKeys()

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, layout: Layout, block: int) -> Tensor:
        """Active queries over all keys of their segment: text, active image tokens, context from the record.

        The keys' order does not matter to attention, so the context is appended rather than put back in raster order.

        Args:
            query, key, value: [S, H, D] joined tokens; queries and keys normed and rotated.
        Returns:
            [S, H * D] in the joined layout; zeros in rows that are no segment's.
        """
        self._joined.forget()
        outputs, start = [], 0
        for segment, text_tokens, tokens in zip(self._segments, layout.text_lengths, layout.joint_lengths, strict=True):
            q, k, v = (x[start : start + tokens] for x in (query, key, value))
            start += tokens
            if segment.recorder is not None:
                segment.recorder.record(block, KeyValue(k[text_tokens:], v[text_tokens:]))
            if segment.context is not None and block >= segment.full_blocks:
                k, v = self._joined.join(KeyValue(k, v), segment.context, block)
            q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))  # [1, H, S, D]
            outputs.append(functional.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1))
        return packed(outputs, layout.joint_size)


class JoinedKeys:
    """K and V of a segment and of its context in one tensor each.

    Putting them together was a fifth of a step of the embedded model on a CPU, so memory is used again for the next
    segment and the next block. A device works in order: what is overwritten has been read.
    """

    def __init__(self) -> None:
        self._memory: Tensor | None = None  # [2, N, H, D], N of the longest so far
        self._joined: KeyValue | None = None
        self._held: tuple[ContextSource, int] | None = None  # whose context is in it, after how many rows

    def forget(self) -> None:
        """Another block begins, whose context is another."""
        self._held = None

    def join(self, own: KeyValue, source: ContextSource, block: int) -> KeyValue:
        """The segment's own, then its context's, [N, H, D] each; until the next call.

        The guidance branches of an edit have one context, and mostly as many tokens: then it is copied once for both.
        """
        rows = len(own.key)
        if self._joined is not None and self._held is not None and self._held[0] is source and self._held[1] == rows:
            for joined, part in zip(self._joined, own, strict=True):
                joined[:rows] = part
            return self._joined
        context = source.context(block)
        total = rows + len(context.key)
        if self._memory is None or self._memory.shape[1] < total:
            self._memory = own.key.new_empty(2, total, *own.key.shape[1:])
        self._held, self._joined = (source, rows), KeyValue(*self._memory[:, :total])
        for joined, *parts in zip(self._joined, own, context, strict=True):
            torch.cat(parts, out=joined)
        return self._joined
