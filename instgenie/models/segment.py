"""What a packed forward takes: segments of tokens from different requests, laid end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from instgenie.errors import ShapeError


class KeyValue(NamedTuple):
    """K and V (after norm and RoPE) of image tokens in one block, [N, H, D] each."""

    key: Tensor
    value: Tensor


class ContextSource(Protocol):
    """Where a segment finds K and V of the tokens that it does not compute."""

    def context(self, block: int) -> KeyValue:
        """K and V of the segment's context tokens in block `block`, on the model's device in its dtype."""
        ...


class Recorder(Protocol):
    """Takes K and V of a segment's image tokens as they are computed."""

    def record(self, block: int, kv: KeyValue) -> None:
        """Called once per block, in block order; the tensors are the recorder's to keep."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """One pass of one request at one step.

    Attributes:
        tokens: [M, in_channels] model inputs of the active image tokens.
        image_ids: [M, 3] their position ids.
        text: [T, joint_attention_dim] prompt states.
        pooled: [pooled_projection_dim] prompt vector.
        timestep: noise level, 0..1.
        guidance: input of guidance-distilled models, else None.
        context: K and V of the other image tokens; None where all are active.
        recorder: takes this segment's K and V; only where all tokens are active.
        full_blocks: the full prefix: so many blocks, the first ones, compute all of `tokens` and need no context.
        active: [A] int64, which of `tokens` the other blocks compute; None is all of them. Their velocity alone is
            returned.
    """

    tokens: Tensor
    image_ids: Tensor
    text: Tensor
    pooled: Tensor
    timestep: float
    guidance: float | None = None
    context: ContextSource | None = None
    recorder: Recorder | None = None
    full_blocks: int = 0
    active: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each segment's text and image tokens lie in the packed tensors.

    Text tokens of all segments are packed in one tensor and image tokens in another; `join` puts them together
    segment by segment, text first.
    """

    text_lengths: list[int]
    image_lengths: list[int]
    device: torch.device

    @classmethod
    def of(cls, segments: Sequence[Segment], device: torch.device) -> Layout:
        """The layout of these segments.

        Raises:
            ShapeError: there is none, or one has no image tokens.
        """
        if not segments:
            raise ShapeError("a packed forward needs at least one segment")
        lengths = [len(segment.tokens) for segment in segments]
        if not all(lengths):
            raise ShapeError("a segment has no image tokens")
        return cls([len(segment.text) for segment in segments], lengths, device)

    @cached_property
    def joint_lengths(self) -> list[int]:
        """Tokens of each segment in the joined tensor."""
        return [t + m for t, m in zip(self.text_lengths, self.image_lengths, strict=True)]

    def join(self, text: Tensor, image: Tensor) -> Tensor:
        """[sum T, ...], [sum M, ...] -> [sum (T + M), ...], segment by segment."""
        if len(self.text_lengths) == 1:
            return torch.cat([text, image])
        pairs = zip(text.split(self.text_lengths), image.split(self.image_lengths), strict=True)
        return torch.cat([part for pair in pairs for part in pair])

    def part(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse of `join`."""
        lengths = [n for pair in zip(self.text_lengths, self.image_lengths, strict=True) for n in pair]
        parts = joint.split(lengths)
        if len(parts) == 2:
            return parts[0], parts[1]
        return torch.cat(parts[0::2]), torch.cat(parts[1::2])

    def narrow(self, active: Sequence[Tensor | None]) -> tuple[Layout, Tensor]:
        """Leave out image tokens: the layout of the others, and their rows in the packed image tensor.

        Args:
            active: for each segment [A], the image tokens that stay, or None for all of them.
        """
        rows, offset = [], 0
        for length, kept in zip(self.image_lengths, active, strict=True):
            rows.append(offset + (torch.arange(length, device=self.device) if kept is None else kept.to(self.device)))
            offset += length
        return Layout(self.text_lengths, [len(part) for part in rows], self.device), torch.cat(rows)

    @cached_property
    def text_rows(self) -> Tensor | None:
        """[sum T] the segment of each text token; None where there is one segment."""
        return self._rows(self.text_lengths)

    @cached_property
    def image_rows(self) -> Tensor | None:
        """[sum M] the segment of each image token; None where there is one segment."""
        return self._rows(self.image_lengths)

    @cached_property
    def joint_rows(self) -> Tensor | None:
        """[sum (T + M)] the segment of each joined token; None where there is one segment."""
        return self._rows(self.joint_lengths)

    def _rows(self, lengths: list[int]) -> Tensor | None:
        if len(lengths) == 1:
            return None
        return torch.repeat_interleave(torch.tensor(lengths)).to(self.device)

    @staticmethod
    def per_token(values: Tensor, rows: Tensor | None) -> Tensor:
        """[B, C] one row per segment -> one row per token; [1, C], which broadcasts, where there is one segment."""
        return values if rows is None else values.index_select(0, rows)
