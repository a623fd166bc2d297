"""The packed forward against diffusers' own: with every token computed they are the same function."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instgenie.conditioning import image_ids
from instgenie.errors import ShapeError
from instgenie.models.flux import FluxForward
from instgenie.models.segment import KeyValue, Segment
from instgenie.trajectory import seeded_noise
from tests.instgenie.tiny_flux import CHANNELS, random_prompt, relative_error, tiny_forward

GRIDS = st.tuples(st.integers(1, 8), st.integers(1, 8))


def random_segment(
    grid: tuple[int, int], seed: int, *, timestep: float, guidance: float | None = None, text_tokens: int = 3
) -> Segment:
    """All tokens of a grid."""
    prompt = random_prompt(seed, text_tokens)
    tokens = seeded_noise((grid[0] * grid[1], CHANNELS), seed)
    return Segment(tokens, image_ids(grid), prompt.states, prompt.pooled, timestep, guidance)


def diffusers_forward(forward: FluxForward, segments: list[Segment]) -> Tensor:
    """[B, L, C] of diffusers' forward, for segments of one grid and text length."""
    guidance = [s.guidance for s in segments if s.guidance is not None]
    with torch.inference_mode():
        output: Tensor = forward.transformer(
            hidden_states=torch.stack([s.tokens for s in segments]).to(forward.dtype),
            encoder_hidden_states=torch.stack([s.text for s in segments]).to(forward.dtype),
            pooled_projections=torch.stack([s.pooled for s in segments]).to(forward.dtype),
            timestep=torch.tensor([s.timestep for s in segments]),
            guidance=torch.tensor(guidance) if guidance else None,
            img_ids=segments[0].image_ids,
            txt_ids=torch.zeros(len(segments[0].text), 3),
            return_dict=False,
        )[0]
    return output


# Sixteenths times 1000 are exact in float32, so the two ways to scale them agree.
TIMESTEPS = st.integers(0, 16).map(lambda numerator: numerator / 16)


@settings(deadline=None, max_examples=25)
@given(GRIDS, TIMESTEPS, st.integers(1, 5), st.sampled_from([None, 1.0, 3.5, 30.0]))
def test_all_tokens_equal_diffusers(
    grid: tuple[int, int], timestep: float, text_tokens: int, guidance: float | None
) -> None:
    forward = tiny_forward(guidance_embeds=guidance is not None)
    segment = random_segment(grid, 1, timestep=timestep, guidance=guidance, text_tokens=text_tokens)
    (velocity,) = forward([segment])
    assert velocity.shape == (grid[0] * grid[1], CHANNELS)
    assert relative_error(velocity, diffusers_forward(forward, [segment])[0]) <= 1e-5


@pytest.mark.parametrize("guidance_embeds", [False, True])
def test_batch_of_timesteps_prompts_and_guidances_equals_diffusers(guidance_embeds: bool) -> None:
    forward = tiny_forward(guidance_embeds=guidance_embeds)
    segments = [
        random_segment((4, 6), seed, timestep=(seed + 1) / 4, guidance=1.5 + seed if guidance_embeds else None)
        for seed in range(4)
    ]
    velocities = torch.stack(forward(segments))
    expected = diffusers_forward(forward, segments)
    assert relative_error(velocities, expected) <= 1e-5
    for one, other in pairwise(expected):
        assert relative_error(one, other) > 0.1  # the inputs matter


def test_bfloat16_is_close_to_diffusers() -> None:
    forward = tiny_forward(dtype=torch.bfloat16)
    segment = random_segment((4, 4), 0, timestep=0.5)
    (velocity,) = forward([segment])
    assert velocity.dtype == torch.bfloat16
    assert relative_error(velocity, diffusers_forward(forward, [segment])[0]) <= 2e-2


def test_guidance_and_timestep_change_the_result() -> None:
    forward = tiny_forward(guidance_embeds=True)
    inputs = [(0.5, 1.0), (0.5, 2.0), (0.25, 1.0)]
    results = forward([random_segment((3, 3), 0, timestep=t, guidance=g) for t, g in inputs])
    assert relative_error(results[1], results[0]) > 1e-3
    assert relative_error(results[2], results[0]) > 1e-3


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(GRIDS, TIMESTEPS, st.integers(1, 4)), min_size=2, max_size=4))
def test_segments_do_not_see_each_other(shapes: list[tuple[tuple[int, int], float, int]]) -> None:
    forward = tiny_forward()
    segments = [
        random_segment(grid, seed, timestep=timestep, text_tokens=text_tokens)
        for seed, (grid, timestep, text_tokens) in enumerate(shapes)
    ]
    together = forward(segments)
    for segment, velocity in zip(segments, together, strict=True):
        assert relative_error(velocity, forward([segment])[0]) <= 1e-5


def test_order_of_tokens_follows_their_position_ids() -> None:
    forward = tiny_forward()
    whole = random_segment((4, 5), 0, timestep=0.5)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = Segment(whole.tokens[order], whole.image_ids[order], whole.text, whole.pooled, whole.timestep)
    (expected,), (actual,) = forward([whole]), forward([shuffled])
    assert relative_error(actual, expected[order]) <= 1e-5


def test_recorder_sees_every_block_once_and_image_tokens_alone() -> None:
    forward = tiny_forward()
    seen: list[tuple[int, torch.Size, torch.Size]] = []

    class Recorder:
        def record(self, block: int, kv: KeyValue) -> None:
            seen.append((block, kv.key.shape, kv.value.shape))

    plain, recorded = (random_segment((3, 4), seed, timestep=0.5) for seed in range(2))
    parts = (recorded.tokens, recorded.image_ids, recorded.text, recorded.pooled)
    forward([plain, Segment(*parts, recorded.timestep, recorder=Recorder())])
    assert forward.num_blocks == 4
    assert seen == [(block, (12, 2, 16), (12, 2, 16)) for block in range(4)]


def test_no_segments() -> None:
    with pytest.raises(ShapeError, match="at least one segment"):
        tiny_forward()([])


def test_empty_segment() -> None:
    whole, empty = random_segment((2, 2), 0, timestep=0.5), random_segment((0, 2), 0, timestep=0.5)
    with pytest.raises(ShapeError, match="no image tokens"):
        tiny_forward()([whole, empty])


def test_wrong_number_of_channels() -> None:
    whole = random_segment((2, 2), 0, timestep=0.5)
    wide = Segment(torch.zeros(4, CHANNELS + 1), whole.image_ids, whole.text, whole.pooled, 0.5)
    with pytest.raises(ShapeError, match=f"takes {CHANNELS} channels, got {CHANNELS + 1}"):
        tiny_forward()([whole, wide])


def test_distilled_model_without_guidance() -> None:
    segments = [random_segment((2, 2), 0, timestep=0.5, guidance=guidance) for guidance in (1.0, None)]
    with pytest.raises(ShapeError, match="segment 1 has none"):
        tiny_forward(guidance_embeds=True)(segments)
