"""Random work of known shapes for a model to be timed at: segments of tokens, and contexts for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from instgenie.codecs import CodecName, Shape, codec_of
from instgenie.models.flux import FluxForward
from instgenie.models.segment import ContextSource, KeyValue, Segment
from instgenie.pipeline.cost import SegmentShape

_CONTEXT_BYTES = 64 << 20  # that contexts are read from in turn: more than the caches of most processors


@dataclass(frozen=True, slots=True)
class UsualEdit:
    """What the edits are like that costs are measured for.

    Attributes:
        canvas_tokens: image tokens.
        codec: of the records.
        decodes_ahead: whether the loader decodes them; else the blocks do.
        passes: segments of one edit, for which a record is decoded once; two where guidance is classifier-free.
    """

    canvas_tokens: int
    text_tokens: int
    codec: CodecName = "raw"
    decodes_ahead: bool = False
    passes: int = 2


@dataclass(slots=True, eq=False)
class Probe:
    """Segments to run.

    Attributes:
        part_ms: the shortest times of a run's parts, one per block and the head; the first is that of the first block
            and of all that comes before it. Empty before a run.
    """

    segments: list[Segment]
    shapes: list[SegmentShape]
    part_ms: list[float] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Tokens computed, text and image."""
        return sum(s.text_tokens + s.active_tokens for s in self.shapes)

    def learn(self, part_ms: Sequence[float]) -> None:
        """Take the times of a run into account."""
        self.part_ms = [min(pair) for pair in zip(self.part_ms or part_ms, part_ms, strict=True)]


def random_probes(forward: FluxForward, edit: UsualEdit, points: Sequence[tuple[float, float, int]]) -> list[Probe]:
    """A probe of each point.

    Args:
        points: canvas as a share of the edit's, active tokens as a share of that canvas, number of segments.
    """
    codec = "raw" if edit.decodes_ahead else edit.codec
    records: dict[int, RandomRecords] = {}
    probes = []
    for canvas_share, active_share, batch in points:
        total = max(1, round(canvas_share * edit.canvas_tokens))
        active = max(1, round(active_share * total))
        context: ContextSource | None = None
        segments = []
        for number in range(batch):
            if number % edit.passes == 0 and active < total:
                if total not in records:
                    records[total] = RandomRecords(forward, total, codec)
                context = RandomContext(records[total], torch.arange(active, total, device=forward.device))
            segments.append(_random_segment(forward, active, edit.text_tokens, context))
        probes.append(Probe(segments, [SegmentShape(edit.text_tokens, active, total)] * batch))
    return probes


class RandomRecords:
    """Encoded records of random K and V, in different memory for each block, as those of a step are."""

    def __init__(self, forward: FluxForward, tokens: int, codec: CodecName) -> None:
        self.shape: Shape = 2, tokens, forward.num_heads, forward.head_dim
        self.codec, self.dtype = codec_of(codec), forward.dtype
        payload = self.codec.encode(_random(forward, *self.shape))
        self.payload_bytes = payload.numel()
        copies = min(forward.num_blocks, max(1, _CONTEXT_BYTES // self.payload_bytes))
        self._payloads = [payload, *(payload.clone() for _ in range(copies - 1))]

    def decode(self, block: int, positions: Tensor | None = None) -> Tensor:
        """K and V of a block, [2, U, H, D] for positions [U]."""
        return self.codec.decode(self._payloads[block % len(self._payloads)], self.shape, self.dtype, positions)


class RandomContext:
    """Context from random records; where two segments ask for the same block in a row it is decoded once."""

    def __init__(self, records: RandomRecords, positions: Tensor) -> None:
        """Args:
        positions: [U] the context tokens.
        """
        self._records, self._positions = records, positions
        self._last: tuple[int, KeyValue] | None = None

    def context(self, block: int) -> KeyValue:
        """See `ContextSource`."""
        if self._last is None or self._last[0] != block:
            self._last = block, KeyValue(*self._records.decode(block, self._positions))
        return self._last[1]


def _random_segment(
    forward: FluxForward, active_tokens: int, text_tokens: int, context: ContextSource | None
) -> Segment:
    config = forward.transformer.config
    return Segment(
        tokens=_random(forward, active_tokens, config.in_channels),
        image_ids=torch.zeros(active_tokens, 3, device=forward.device),
        text=_random(forward, text_tokens, config.joint_attention_dim),
        pooled=_random(forward, config.pooled_projection_dim),
        timestep=0.5,
        guidance=1.0 if config.guidance_embeds else None,
        context=context,
    )


def _random(forward: FluxForward, *shape: int) -> Tensor:
    """Standard normal numbers; the seed of the caller's process is not touched."""
    generator = torch.Generator(forward.device).manual_seed(0)
    return torch.randn(shape, generator=generator, device=forward.device).to(forward.dtype)
