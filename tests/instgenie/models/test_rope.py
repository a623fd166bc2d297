"""Rotation of packed tokens against diffusers' own."""

from __future__ import annotations

import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxPosEmbed

from instgenie.conditioning import image_ids
from instgenie.models.rope import apply_rope


def cos_sin() -> tuple[torch.Tensor, torch.Tensor]:
    """Of a 3x5 grid as diffusers has them, each angle twice in a row, [15, 16]."""
    cos, sin = FluxPosEmbed(theta=10000, axes_dim=[4, 6, 6])(image_ids((3, 5)))
    return cos.float(), sin.float()


def rotation() -> torch.Tensor:
    """The same as `apply_rope` takes it, [15, 8, 2]."""
    cos, sin = cos_sin()
    return torch.stack([cos[:, ::2], sin[:, ::2]], dim=-1)


def test_equals_diffusers() -> None:
    x = torch.randn(15, 2, 16, generator=torch.Generator().manual_seed(0))
    expected = apply_rotary_emb(x[None], cos_sin(), sequence_dim=1)[0]
    assert torch.equal(apply_rope(x, rotation()), expected)


def test_keeps_lengths_and_the_token_at_the_origin() -> None:
    x = torch.randn(15, 2, 16, generator=torch.Generator().manual_seed(0))
    turned = apply_rope(x, rotation())
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[0], x[0])
    assert not torch.allclose(turned[1:], x[1:])


def test_keeps_the_dtype_and_computes_in_float32() -> None:
    x = torch.randn(15, 2, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    turned = apply_rope(x, rotation())
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, apply_rope(x.float(), rotation()).bfloat16())


def test_compiled_it_is_the_same() -> None:
    x = torch.randn(15, 2, 16, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(apply_rope, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, rotation()), apply_rope(x, rotation()), rtol=1e-6, atol=1e-6)
