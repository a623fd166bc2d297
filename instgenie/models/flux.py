"""Packed forward of the Flux family, over the weights of diffusers' `FluxTransformer2DModel`.

Linear layers run on one packed tensor of all segments' active tokens; modulation is per segment; attention is per
segment. With one segment of all tokens it computes what the diffusers forward does, but for the timestep, which
stays float32 here until it is embedded.

A segment may begin with all of its tokens and go on with the active ones alone, at a block of its own choice: the
others need no context before that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
from torch import Tensor
from torch.nn import functional

from instgenie.errors import ShapeError
from instgenie.models.attention import SegmentAttention
from instgenie.models.buckets import bucket
from instgenie.models.compiled import Backend, BlockParts, compiled_parts
from instgenie.models.parts import Stream, modulated
from instgenie.models.segment import Layout, Segment, packed, unpacked

_TYPICAL_TOKENS = 256
_log = logging.getLogger(__name__)


class FluxForward:
    """The packed forward of one transformer.

    Attributes:
        num_blocks: blocks that have a K/V record: double-stream ones first, then single-stream ones.
        num_double: of them, double-stream ones.
        parts: what its blocks do beside attention.
    """

    def __init__(self, transformer: FluxTransformer2DModel) -> None:
        self.transformer = transformer.eval()
        self.num_double = len(transformer.transformer_blocks)
        self.num_blocks = self.num_double + len(transformer.single_transformer_blocks)
        self.parts = BlockParts()

    @property
    def num_heads(self) -> int:
        """H, attention heads of every block."""
        return int(self.transformer.config.num_attention_heads)

    @property
    def head_dim(self) -> int:
        """D, channels of a head."""
        return int(self.transformer.config.attention_head_dim)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.transformer.x_embedder.weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype: that of the weights."""
        return self.transformer.x_embedder.weight.dtype  # type: ignore[no-any-return]

    def compile(self, backend: Backend = "inductor") -> bool:
        """Compile the token-wise parts of blocks, which takes a while: see `compiled`.

        Where the compiler fails, that is logged, and blocks stay as they are.

        Args:
            backend: of `torch.compile`.
        Returns:
            Whether they are compiled.
        """
        if self.parts.are_compiled:
            return True
        self.parts = compiled_parts(backend)
        try:
            self([self._typical_segment() for _ in range(2)])
        except (RuntimeError, OSError) as error:  # no C++ compiler, no Triton, no folder to compile in
            _log.warning("blocks cannot be compiled, and run as they are: %s", " ".join(str(error).splitlines()[:2]))
            self.parts = BlockParts()
        return self.parts.are_compiled

    @torch.inference_mode()
    def __call__(self, segments: Sequence[Segment], on_block: Callable[[int], None] = lambda _: None) -> list[Tensor]:
        """Predicted velocity of each segment's active tokens, [M, out_channels] in the compute dtype.

        Args:
            on_block: called with a block's number once the block is computed; on CUDA, once it is launched.

        Raises:
            ShapeError: no segment, an empty one, or channels that the model does not take.
        """
        model = self.transformer
        layout = Layout.of(segments, self.device, bucket if self.parts.are_compiled else None)
        for segment in segments:
            if segment.tokens.shape[1] != model.config.in_channels:
                raise ShapeError(f"the model takes {model.config.in_channels} channels, got {segment.tokens.shape[1]}")
        image = model.x_embedder(packed([s.tokens for s in segments], layout.image_size).to(self.device, self.dtype))
        text = model.context_embedder(packed([s.text for s in segments], layout.text_size).to(self.device, self.dtype))
        condition = self._condition(segments)
        if self.parts.are_compiled and len(segments) == 1:
            condition = condition.expand(2, -1)  # a tensor of one row would be compiled by itself
        image_rotation = self._rotation(packed([s.image_ids for s in segments], layout.image_size))
        text_rotation = self._rotation(image_rotation.new_zeros(len(text), 3))
        attention = SegmentAttention(segments)
        narrowing = {s.full_blocks for s in segments if s.active is not None}
        for index, double in enumerate(model.transformer_blocks):
            if index in narrowing:
                layout, image, image_rotation = _narrow(layout, image, image_rotation, segments, index)
            rotations = text_rotation, image_rotation
            text, image = self._double_block(double, text, image, condition, rotations, layout, attention, index)
            on_block(index)
        joint, rotation = layout.join(text, image), layout.join(text_rotation, image_rotation)
        for index, single in enumerate(model.single_transformer_blocks, self.num_double):
            if index in narrowing:
                text, image = layout.part(joint)
                layout, image, image_rotation = _narrow(layout, image, image_rotation, segments, index)
                joint, rotation = layout.join(text, image), layout.join(text_rotation, image_rotation)
            joint = self._single_block(single, joint, condition, rotation, layout, attention, index)
            on_block(index)
        _, image = layout.part(joint)
        if self.num_blocks in narrowing:
            layout, image, _ = _narrow(layout, image, image_rotation, segments, self.num_blocks)
        scale, shift = model.norm_out.linear(condition).chunk(2, dim=-1)
        image = modulated(model.norm_out.norm, image, shift, scale, layout.image_rows)
        return unpacked(model.proj_out(image), layout.image_lengths)

    def _typical_segment(self) -> Segment:
        """Of as many tokens as compiled code shall be quick at: the compiler sees them as an example."""
        config, device = self.transformer.config, self.device
        return Segment(
            tokens=torch.zeros(_TYPICAL_TOKENS, config.in_channels, device=device),
            image_ids=torch.zeros(_TYPICAL_TOKENS, 3, device=device),
            text=torch.zeros(_TYPICAL_TOKENS, config.joint_attention_dim, device=device),
            pooled=torch.zeros(config.pooled_projection_dim, device=device),
            timestep=0.5,
            guidance=1.0 if config.guidance_embeds else None,
        )

    def _condition(self, segments: Sequence[Segment]) -> Tensor:
        """[B, C] activated embedding of timestep, guidance and pooled prompt."""
        pooled = torch.stack([s.pooled for s in segments]).to(self.device, self.dtype)
        timestep = torch.tensor([1000 * s.timestep for s in segments], device=self.device)
        if not self.transformer.config.guidance_embeds:
            return functional.silu(self.transformer.time_text_embed(timestep, pooled))
        missing = [i for i, s in enumerate(segments) if s.guidance is None]
        if missing:
            raise ShapeError(f"the model takes guidance as an input, segment {missing[0]} has none")
        guidance = torch.tensor([1000 * (s.guidance or 0.0) for s in segments], device=self.device)
        return functional.silu(self.transformer.time_text_embed(timestep, guidance, pooled))

    def _rotation(self, ids: Tensor) -> Tensor:
        """[S, 3] position ids -> [S, D / 2, 2] float32, see `apply_rope`."""
        cos, sin = self.transformer.pos_embed(ids.to(self.device))
        return torch.stack([cos[:, ::2], sin[:, ::2]], dim=-1).float()

    def _double_block(
        self,
        block: FluxTransformerBlock,
        text: Tensor,
        image: Tensor,
        condition: Tensor,
        rotations: tuple[Tensor, Tensor],
        layout: Layout,
        attention: SegmentAttention,
        index: int,
    ) -> tuple[Tensor, Tensor]:
        """A double-stream block: [T, C] and [M, C] in and out; `condition` [B, C] is activated already."""
        streams = Stream.of_text(block), Stream.of_image(block)
        text_mod, image_mod = block.norm1_context.linear(condition), block.norm1.linear(condition)
        of_text = self.parts.enter_stream(streams[0], text, text_mod, layout.text_rows, rotations[0])
        of_image = self.parts.enter_stream(streams[1], image, image_mod, layout.image_rows, rotations[1])
        query, key, value = (layout.join(*pair) for pair in zip(of_text, of_image, strict=True))
        y, x = layout.part(attention(query, key, value, layout, index))
        text = self.parts.leave_stream(streams[0], text, y, text_mod, layout.text_rows)
        return text, self.parts.leave_stream(streams[1], image, x, image_mod, layout.image_rows)

    def _single_block(
        self,
        block: FluxSingleTransformerBlock,
        joint: Tensor,
        condition: Tensor,
        rotation: Tensor,
        layout: Layout,
        attention: SegmentAttention,
        index: int,
    ) -> Tensor:
        """A single-stream block on joined tokens, [S, C] in and out."""
        modulation = block.norm.linear(condition)
        heads, y = self.parts.enter_single(block, joint, modulation, layout.joint_rows, rotation)
        attended = attention(*heads, layout, index)
        return self.parts.leave_single(block, joint, y, attended, modulation, layout.joint_rows)


def _narrow(
    layout: Layout, image: Tensor, rotation: Tensor, segments: Sequence[Segment], index: int
) -> tuple[Layout, Tensor, Tensor]:
    """Go on with the active tokens alone of those segments whose full prefix ends at block `index`."""
    narrowed, rows = layout.narrow([s.active if s.full_blocks == index else None for s in segments])
    return narrowed, image.index_select(0, rows), rotation.index_select(0, rows)
