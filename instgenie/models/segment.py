"""What a packed forward takes: segments of tokens from different requests, laid end to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def packed(parts: Sequence[Tensor], size: int) -> Tensor:
    """Parts [N, ...] end to end, and rows of zeros up to `size`."""
    missing = size - sum(len(part) for part in parts)
    if missing:
        parts = [*parts, parts[0].new_zeros(missing, *parts[0].shape[1:])]
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def unpacked(x: Tensor, lengths: list[int]) -> list[Tensor]:
    """Inverse of `packed`: parts of these lengths, without the rows behind them."""
    return list(x[: sum(lengths)].split(lengths))


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each segment's text and image tokens lie in the packed tensors.

    Text tokens of all segments are packed in one tensor and image tokens in another; `join` puts them together
    segment by segment, text first. A tensor may be padded at its end, with rows that are no segment's.

    Attributes:
        padded: rows that a packed tensor of so many tokens has; None is no more than tokens.
    """

    text_lengths: list[int]
    image_lengths: list[int]
    device: torch.device
    padded: Callable[[int], int] | None = None

    @classmethod
    def of(
        cls, segments: Sequence[Segment], device: torch.device, padded: Callable[[int], int] | None = None
    ) -> Layout:
        """The layout of these segments.

        Raises:
            ShapeError: there is none, or one has no image tokens.
        """
        if not segments:
            raise ShapeError("a packed forward needs at least one segment")
        lengths = [len(segment.tokens) for segment in segments]
        if not all(lengths):
            raise ShapeError("a segment has no image tokens")
        return cls([len(segment.text) for segment in segments], lengths, device, padded)

    @cached_property
    def joint_lengths(self) -> list[int]:
        """Tokens of each segment in the joined tensor."""
        return [t + m for t, m in zip(self.text_lengths, self.image_lengths, strict=True)]

    @cached_property
    def text_size(self) -> int:
        """T, rows of the packed text tensor."""
        return self._size(self.text_lengths)

    @cached_property
    def image_size(self) -> int:
        """M, rows of the packed image tensor."""
        return self._size(self.image_lengths)

    @cached_property
    def joint_size(self) -> int:
        """S, rows of the joined tensor."""
        return self._size(self.joint_lengths)

    def join(self, text: Tensor, image: Tensor) -> Tensor:
        """[T, ...], [M, ...] -> [S, ...], segment by segment."""
        texts, images = unpacked(text, self.text_lengths), unpacked(image, self.image_lengths)
        return packed([part for pair in zip(texts, images, strict=True) for part in pair], self.joint_size)

    def part(self, joint: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse of `join`."""
        parts = unpacked(joint, [n for pair in zip(self.text_lengths, self.image_lengths, strict=True) for n in pair])
        return packed(parts[0::2], self.text_size), packed(parts[1::2], self.image_size)

    def narrow(self, active: Sequence[Tensor | None]) -> tuple[Layout, Tensor]:
        """Leave out image tokens: the layout of the others, and their rows in the packed image tensor.

        Args:
            active: for each segment [A], the image tokens that stay, or None for all of them.
        """
        rows, offset = [], 0
        for length, kept in zip(self.image_lengths, active, strict=True):
            rows.append(offset + (torch.arange(length, device=self.device) if kept is None else kept.to(self.device)))
            offset += length
        narrowed = Layout(self.text_lengths, [len(part) for part in rows], self.device, self.padded)
        return narrowed, packed(rows, narrowed.image_size)

    @cached_property
    def text_rows(self) -> Tensor | None:
        """[T] the segment of each text token; None where there is one segment and no padding."""
        return self._rows(self.text_lengths, self.text_size)

    @cached_property
    def image_rows(self) -> Tensor | None:
        """[M] the segment of each image token; None where there is one segment and no padding."""
        return self._rows(self.image_lengths, self.image_size)

    @cached_property
    def joint_rows(self) -> Tensor | None:
        """[S] the segment of each joined token; None where there is one segment and no padding."""
        return self._rows(self.joint_lengths, self.joint_size)

    def _size(self, lengths: list[int]) -> int:
        total = sum(lengths)
        return total if self.padded is None else self.padded(total)

    def _rows(self, lengths: list[int], size: int) -> Tensor | None:
        if len(lengths) == 1 and self.padded is None:
            return None
        return packed([torch.repeat_interleave(torch.tensor(lengths))], size).to(self.device)
