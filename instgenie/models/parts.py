"""The parts of a block that treat each token by itself: all but attention.

A double-stream block enters and leaves once per stream, a single-stream block once for the joined tokens. Each part
takes any number of tokens S, of any number of segments B.

Modulation is [B, n * C], one row per segment; `rows` [S] is the segment of each token, or None where there is one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from diffusers.models.transformers.transformer_flux import (
    FluxAttention,
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from torch import Tensor, nn

from instgenie.models.rope import apply_rope


class Heads(NamedTuple):
    """Query, key and value of tokens, [S, H, D] each: queries and keys normed and rotated."""

    query: Tensor
    key: Tensor
    value: Tensor


class Projections(NamedTuple):
    """The modules that make `Heads` of hidden states."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    query_norm: nn.Module
    key_norm: nn.Module

    @classmethod
    def of(cls, attn: FluxAttention) -> Projections:
        """Those of image tokens, or of joined ones."""
        return cls(attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k)

    @classmethod
    def of_text(cls, attn: FluxAttention) -> Projections:
        """Those of text tokens in a double-stream block."""
        return cls(attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, attn.norm_added_q, attn.norm_added_k)


class Stream(NamedTuple):
    """The modules of one stream of a double-stream block: both streams are of one form, and share compiled code."""

    norm: nn.Module
    projections: Projections
    out: nn.Module
    mlp_norm: nn.Module
    mlp: nn.Module

    @classmethod
    def of_image(cls, block: FluxTransformerBlock) -> Stream:
        """The image tokens'."""
        attn = block.attn
        return cls(block.norm1.norm, Projections.of(attn), attn.to_out[0], block.norm2, block.ff)

    @classmethod
    def of_text(cls, block: FluxTransformerBlock) -> Stream:
        """The text tokens'."""
        attn = block.attn
        norms = block.norm1_context.norm, block.norm2_context
        return cls(norms[0], Projections.of_text(attn), attn.to_add_out, norms[1], block.ff_context)


def enter_stream(stream: Stream, x: Tensor, modulation: Tensor, rows: Tensor | None, rotation: Tensor) -> Heads:
    """A stream of a double-stream block before attention.

    Args:
        x: [S, C].
        modulation: [B, 6 * C].
        rotation: [S, D / 2, 2], see `apply_rope`.
    """
    shift, scale, *_ = modulation.chunk(6, dim=-1)
    return _heads(stream.projections, modulated(stream.norm, x, shift, scale, rows), rotation)


def leave_stream(stream: Stream, x: Tensor, attended: Tensor, modulation: Tensor, rows: Tensor | None) -> Tensor:
    """A stream of a double-stream block after attention: [S, C] in and out, and of `attended`."""
    _, _, gate, shift, scale, mlp_gate = modulation.chunk(6, dim=-1)
    x = x + per_token(gate, rows) * stream.out(attended)
    change: Tensor = per_token(mlp_gate, rows) * stream.mlp(modulated(stream.mlp_norm, x, shift, scale, rows))
    return x + change


def enter_single(
    block: FluxSingleTransformerBlock, x: Tensor, modulation: Tensor, rows: Tensor | None, rotation: Tensor
) -> tuple[Heads, Tensor]:
    """A single-stream block before attention; with what its MLP goes on from, [S, C].

    Args:
        x: [S, C].
        modulation: [B, 3 * C].
        rotation: [S, D / 2, 2], see `apply_rope`.
    """
    shift, scale, _ = modulation.chunk(3, dim=-1)
    y = modulated(block.norm.norm, x, shift, scale, rows)
    return _heads(Projections.of(block.attn), y, rotation), y


def leave_single(
    block: FluxSingleTransformerBlock, x: Tensor, y: Tensor, attended: Tensor, modulation: Tensor, rows: Tensor | None
) -> Tensor:
    """A single-stream block after attention: [S, C] in and out, and of `y` and `attended`."""
    gate = modulation.chunk(3, dim=-1)[2]
    hidden = block.act_mlp(block.proj_mlp(y))
    change: Tensor = per_token(gate, rows) * block.proj_out(torch.cat([attended, hidden], dim=-1))
    return x + change


def per_token(values: Tensor, rows: Tensor | None) -> Tensor:
    """[B, C] one row per segment -> one row per token; [1, C], which broadcasts, where there is one segment."""
    return values if rows is None else values.index_select(0, rows)


def modulated(norm: nn.Module, x: Tensor, shift: Tensor, scale: Tensor, rows: Tensor | None) -> Tensor:
    """[S, C] normed, scaled and shifted as each token's segment says; `shift` and `scale` are [B, C]."""
    normed: Tensor = norm(x)
    return normed * per_token(1 + scale, rows) + per_token(shift, rows)


def _heads(projections: Projections, x: Tensor, rotation: Tensor) -> Heads:
    """[S, C] -> [S, H, D] each."""
    head_dim = 2 * rotation.shape[1]
    query, key, value = (project(x).unflatten(-1, (-1, head_dim)) for project in projections[:3])
    query, key = projections.query_norm(query), projections.key_norm(key)
    return Heads(apply_rope(query, rotation), apply_rope(key, rotation), value)
