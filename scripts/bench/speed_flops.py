"""How many floating-point operations a pass of a Flux transformer takes, by its configuration.

Counted are matrix products, those of attention too, a multiplication and an addition as two. Norms, activations,
rotations and sums are not: they are a thousandth of a pass.
"""

from __future__ import annotations

from typing import Any

TIMESTEP_CHANNELS = 256  # of the sinusoidal embedding in diffusers
MLP_RATIO = 4


def pass_flops(config: Any, text: int, active: int, total: int) -> int:
    """Of one pass that computes `active` of `total` image tokens.

    Args:
        config: of diffusers' `FluxTransformer2DModel`.
        text: tokens of the prompt.
    """
    width: int = config.num_attention_heads * config.attention_head_dim
    out_channels: int = config.patch_size**2 * (config.out_channels or config.in_channels)
    rows = text + active
    attention = 2 * 2 * rows * (text + total) * width
    of_blocks = 2 * (4 + 2 * MLP_RATIO) * rows * width**2 + attention  # query, key, value, out, MLP
    double = of_blocks + 2 * 2 * 6 * width**2  # modulations of both streams
    single = of_blocks + 2 * 3 * width**2  # its MLP and its way out are one matrix, of the same size together
    embedders: int = 2 * (active * config.in_channels + text * config.joint_attention_dim) * width
    vectors = TIMESTEP_CHANNELS * (2 if config.guidance_embeds else 1) + config.pooled_projection_dim
    condition: int = 2 * width * (vectors + width * (3 if config.guidance_embeds else 2))
    head = 2 * 2 * width**2 + 2 * active * width * out_channels
    double_blocks, single_blocks = int(config.num_layers), int(config.num_single_layers)
    return double_blocks * double + single_blocks * single + embedders + condition + head
