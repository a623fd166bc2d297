"""Packed forward of the Flux family, over the weights of diffusers' `FluxTransformer2DModel`.

Linear layers run on one packed tensor of all segments' active tokens; modulation is per segment; attention is per
segment. With one segment of all tokens it computes what the diffusers forward does, but for the timestep, which
stays float32 here until it is embedded.

A segment may begin with all of its tokens and go on with the active ones alone, at a block of its own choice: the
others need no context before that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux import (
    FluxAttention,
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from torch import Tensor
from torch.nn import functional

from instgenie.errors import ShapeError
from instgenie.models.attention import segment_attention
from instgenie.models.rope import apply_rope
from instgenie.models.segment import Layout, Segment


class FluxForward:
    """The packed forward of one transformer.

    Attributes:
        num_blocks: blocks that have a K/V record: double-stream ones first, then single-stream ones.
        num_double: of them, double-stream ones.
    """

    def __init__(self, transformer: FluxTransformer2DModel) -> None:
        self.transformer = transformer.eval()
        self.num_double = len(transformer.transformer_blocks)
        self.num_blocks = self.num_double + len(transformer.single_transformer_blocks)

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

    @torch.inference_mode()
    def __call__(self, segments: Sequence[Segment], on_block: Callable[[int], None] = lambda _: None) -> list[Tensor]:
        """Predicted velocity of each segment's active tokens, [M, out_channels] in the compute dtype.

        Args:
            on_block: called with a block's number once the block is computed; on CUDA, once it is launched.

        Raises:
            ShapeError: no segment, an empty one, or channels that the model does not take.
        """
        model = self.transformer
        layout = Layout.of(segments, self.device)
        for segment in segments:
            if segment.tokens.shape[1] != model.config.in_channels:
                raise ShapeError(f"the model takes {model.config.in_channels} channels, got {segment.tokens.shape[1]}")
        image = model.x_embedder(torch.cat([s.tokens for s in segments]).to(self.device, self.dtype))
        text = model.context_embedder(torch.cat([s.text for s in segments]).to(self.device, self.dtype))
        condition = functional.silu(self._condition(segments))
        rotation = self._rotation(segments)
        narrowing = {s.full_blocks for s in segments if s.active is not None}
        for index, double in enumerate(model.transformer_blocks):
            if index in narrowing:
                layout, rotation, image = _narrow(layout, rotation, image, segments, index)
            text, image = _double_block(double, text, image, condition, rotation, layout, segments, index)
            on_block(index)
        joint = layout.join(text, image)
        for index, single in enumerate(model.single_transformer_blocks, self.num_double):
            if index in narrowing:
                text, image = layout.part(joint)
                layout, rotation, image = _narrow(layout, rotation, image, segments, index)
                joint = layout.join(text, image)
            joint = _single_block(single, joint, condition, rotation, layout, segments, index)
            on_block(index)
        _, image = layout.part(joint)
        if self.num_blocks in narrowing:
            layout, _, image = _narrow(layout, rotation, image, segments, self.num_blocks)
        scale, shift = layout.per_token(model.norm_out.linear(condition), layout.image_rows).chunk(2, dim=-1)
        image = model.norm_out.norm(image) * (1 + scale) + shift
        return list(model.proj_out(image).split(layout.image_lengths))

    def _condition(self, segments: Sequence[Segment]) -> Tensor:
        """[B, C] embedding of timestep, guidance and pooled prompt."""
        pooled = torch.stack([s.pooled for s in segments]).to(self.device, self.dtype)
        timestep = torch.tensor([1000 * s.timestep for s in segments], device=self.device)
        if not self.transformer.config.guidance_embeds:
            return self.transformer.time_text_embed(timestep, pooled)  # type: ignore[no-any-return]
        missing = [i for i, s in enumerate(segments) if s.guidance is None]
        if missing:
            raise ShapeError(f"the model takes guidance as an input, segment {missing[0]} has none")
        guidance = torch.tensor([1000 * (s.guidance or 0.0) for s in segments], device=self.device)
        return self.transformer.time_text_embed(timestep, guidance, pooled)  # type: ignore[no-any-return]

    def _rotation(self, segments: Sequence[Segment]) -> tuple[Tensor, Tensor]:
        """cos and sin of the joined tokens, [S, D] float32; text tokens sit at position 0."""
        ids = [part for s in segments for part in (s.image_ids.new_zeros(len(s.text), 3), s.image_ids)]
        cos, sin = self.transformer.pos_embed(torch.cat(ids).to(self.device))
        return cos.float(), sin.float()


def _narrow(
    layout: Layout, rotation: tuple[Tensor, Tensor], image: Tensor, segments: Sequence[Segment], index: int
) -> tuple[Layout, tuple[Tensor, Tensor], Tensor]:
    """Go on with the active tokens alone of those segments whose full prefix ends at block `index`."""
    narrowed, rows = layout.narrow([s.active if s.full_blocks == index else None for s in segments])

    def keep(joint: Tensor) -> Tensor:
        text_part, image_part = layout.part(joint)
        return narrowed.join(text_part, image_part.index_select(0, rows))

    return narrowed, (keep(rotation[0]), keep(rotation[1])), image.index_select(0, rows)


def _heads(x: Tensor, attn: FluxAttention) -> Tensor:
    """[S, H * D] -> [S, H, D]."""
    heads: Tensor = x.unflatten(-1, (attn.heads, attn.head_dim))
    return heads


def _double_block(
    block: FluxTransformerBlock,
    text: Tensor,
    image: Tensor,
    condition: Tensor,
    rotation: tuple[Tensor, Tensor],
    layout: Layout,
    segments: Sequence[Segment],
    index: int,
) -> tuple[Tensor, Tensor]:
    """A double-stream block: [sum T, C] and [sum M, C] in and out; `condition` [B, C] is activated already."""
    attn = block.attn
    image_mod = layout.per_token(block.norm1.linear(condition), layout.image_rows).chunk(6, dim=-1)
    text_mod = layout.per_token(block.norm1_context.linear(condition), layout.text_rows).chunk(6, dim=-1)
    shift, scale, image_gate, image_mlp_shift, image_mlp_scale, image_mlp_gate = image_mod
    x = block.norm1.norm(image) * (1 + scale) + shift
    shift, scale, text_gate, text_mlp_shift, text_mlp_scale, text_mlp_gate = text_mod
    y = block.norm1_context.norm(text) * (1 + scale) + shift

    query = layout.join(attn.norm_added_q(_heads(attn.add_q_proj(y), attn)), attn.norm_q(_heads(attn.to_q(x), attn)))
    key = layout.join(attn.norm_added_k(_heads(attn.add_k_proj(y), attn)), attn.norm_k(_heads(attn.to_k(x), attn)))
    value = layout.join(_heads(attn.add_v_proj(y), attn), _heads(attn.to_v(x), attn))
    query, key = apply_rope(query, *rotation), apply_rope(key, *rotation)
    y, x = layout.part(segment_attention(query, key, value, layout, segments, index))

    image = image + image_gate * attn.to_out[0](x)
    image = image + image_mlp_gate * block.ff(block.norm2(image) * (1 + image_mlp_scale) + image_mlp_shift)
    text = text + text_gate * attn.to_add_out(y)
    text = text + text_mlp_gate * block.ff_context(block.norm2_context(text) * (1 + text_mlp_scale) + text_mlp_shift)
    return text, image


def _single_block(
    block: FluxSingleTransformerBlock,
    joint: Tensor,
    condition: Tensor,
    rotation: tuple[Tensor, Tensor],
    layout: Layout,
    segments: Sequence[Segment],
    index: int,
) -> Tensor:
    """A single-stream block on joined tokens, [S, C] in and out."""
    attn = block.attn
    shift, scale, gate = layout.per_token(block.norm.linear(condition), layout.joint_rows).chunk(3, dim=-1)
    x = block.norm.norm(joint) * (1 + scale) + shift
    query = apply_rope(attn.norm_q(_heads(attn.to_q(x), attn)), *rotation)
    key = apply_rope(attn.norm_k(_heads(attn.to_k(x), attn)), *rotation)
    attended = segment_attention(query, key, _heads(attn.to_v(x), attn), layout, segments, index)
    hidden = block.act_mlp(block.proj_mlp(x))
    change: Tensor = gate * block.proj_out(torch.cat([attended, hidden], dim=-1))
    return joint + change
