"""The step caches that diffusers has for `FluxTransformer2DModel`, each at some settings.

What they have in common: a step that is like the one before takes something from it instead of computing it. Left out
are SeaCache, which is for videos, and `TextKVCache`, for other models. FasterCache and PAB keep one state for all
branches of a guidance, which therefore are one batch for them; of FasterCache that leaves its reuse of attention, as
for any model that has its guidance distilled.
"""

from __future__ import annotations

import ast
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

import torch
from diffusers import FluxTransformer2DModel
from diffusers.hooks import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)

FIRST_BLOCK_THRESHOLDS = (0.1, 0.2, 0.4)
MAG_THRESHOLDS = (0.06, 0.24)
TAYLOR_INTERVALS = (2, 3, 5)
REUSED_TIMESTEPS = (100, 800)  # of PAB and FasterCache; diffusers' default of PAB


def sequential_caches(mag_ratios: Sequence[float], steps: int) -> dict[str, object]:
    """Configurations, by name, of the caches that keep a state for each branch of a guidance.

    Args:
        mag_ratios: see `calibrated_ratios`.
        steps: of an edit.
    """
    ratios = torch.tensor(mag_ratios)
    return {
        **{f"first-block cache, {t:g}": FirstBlockCacheConfig(threshold=t) for t in FIRST_BLOCK_THRESHOLDS},
        **{
            f"MagCache, {t:g}": MagCacheConfig(threshold=t, num_inference_steps=steps, mag_ratios=ratios)
            for t in MAG_THRESHOLDS
        },
        **{f"TaylorSeer, 1 step in {i}": _taylor(i, is_lite=True) for i in TAYLOR_INTERVALS},
        "TaylorSeer of attention, 1 step in 3": _taylor(3, is_lite=False),
    }


def batched_caches(timestep: Callable[[], float]) -> dict[str, object]:
    """Configurations, by name, of those that want the branches of a guidance in one batch.

    Args:
        timestep: the current one, 0..1000.
    """
    reuse = {
        "spatial_attention_block_skip_range": 2,
        "spatial_attention_timestep_skip_range": REUSED_TIMESTEPS,
        "current_timestep_callback": timestep,
    }
    return {
        "PAB, attention of 1 step in 2": PyramidAttentionBroadcastConfig(**reuse),
        "FasterCache, attention of 1 step in 2": FasterCacheConfig(**reuse, is_guidance_distilled=True),
    }


def _taylor(interval: int, *, is_lite: bool) -> TaylorSeerCacheConfig:
    """Lite predicts what the whole transformer answers, else what each attention does."""
    return TaylorSeerCacheConfig(cache_interval=interval, taylor_factors_dtype=torch.float32, use_lite_mode=is_lite)


@contextmanager
def cached(transformer: FluxTransformer2DModel, config: object) -> Iterator[None]:
    """The transformer with a step cache, which is empty at first and gone at the end of the block."""
    transformer.enable_cache(config)
    try:
        yield
    finally:
        transformer.disable_cache()


def calibrated_ratios(transformer: FluxTransformer2DModel, steps: int, edit: Callable[[], object]) -> list[float]:
    """MagCache's ratios of a model, as it measures them in an edit; it only prints them.

    Args:
        edit: an edit of so many steps.
    """
    printed = io.StringIO()
    with redirect_stdout(printed), cached(transformer, MagCacheConfig(calibrate=True, num_inference_steps=steps)):
        edit()
    lists = [line for line in printed.getvalue().splitlines() if line.startswith("[") and "," in line and "]" in line]
    found = [ast.literal_eval(line) for line in lists if not line.startswith("[MagCache]")]
    ratios: list[float] = found[0]  # of the branch with the prompt
    assert len(ratios) == steps
    return ratios
