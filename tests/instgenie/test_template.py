"""The template lane."""

from __future__ import annotations

import pytest
import torch

from instgenie.conditioning import image_ids
from instgenie.models.segment import Segment
from instgenie.records import StepRecorder, from_record
from instgenie.template import record_template
from instgenie_cache import MemoryStore, RecordKey, StoreFullError
from tests.instgenie.tiny_flux import random_template, relative_error, tiny_forward

CPU = torch.device("cpu")
STEPS = 5


@pytest.mark.parametrize("steps_per_forward", [1, 2, 5, 7])
@pytest.mark.parametrize("distilled", [False, True])
def test_lane_records_every_block_of_every_step(steps_per_forward: int, distilled: bool) -> None:
    forward = tiny_forward(fill=True, guidance_embeds=distilled)
    template = random_template((3, 2), STEPS, 1, fill=True, guidance=2.0 if distilled else None)
    lane, by_hand = MemoryStore(1 << 20), MemoryStore(1 << 20)
    record_template(forward, template, lane, steps_per_forward)
    assert lane.holds(template.key)
    assert template.condition is not None
    for step, sigma in enumerate(template.sigmas[:-1]):
        latents = (1 - sigma) * template.trajectory.clean + sigma * template.trajectory.noise
        segment = Segment(
            torch.cat([latents, template.condition], dim=1),
            image_ids(template.grid),
            template.prompt.states,
            template.prompt.pooled,
            sigma,
            template.guidance,
            recorder=StepRecorder(by_hand, template.key, step),
        )
        forward([segment])
    by_hand.commit(template.key)
    for step in range(STEPS):
        for block in range(forward.num_blocks):
            records = [store.get(RecordKey(template.key, step, block)) for store in (lane, by_hand)]
            assert all(record is not None and record.shape == (2, 6, 2, 16) for record in records)
            (key, value), (expected_key, expected_value) = (from_record(r, CPU) for r in records if r is not None)
            assert relative_error(key, expected_key) <= 1e-5
            assert relative_error(value, expected_value) <= 1e-5
    assert lane.get(RecordKey(template.key, STEPS, 0)) is None
    assert lane.stats().used_bytes == by_hand.stats().used_bytes


def test_steps_differ() -> None:
    forward, store = tiny_forward(), MemoryStore(1 << 20)
    template = random_template((3, 2), 2, 1, fill=False, guidance=None)
    record_template(forward, template, store)
    first, second = (store.get(RecordKey(template.key, step, 0)) for step in range(2))
    assert first != second


@pytest.mark.parametrize("steps_per_forward", [1, 5])
def test_refused_template_leaves_nothing(steps_per_forward: int) -> None:
    forward = tiny_forward()
    template = random_template((3, 2), STEPS, 1, fill=False, guidance=None)
    one_step_bytes = forward.num_blocks * 2 * 6 * 2 * 16 * 4
    store = MemoryStore(2 * one_step_bytes)
    with pytest.raises(StoreFullError):
        record_template(forward, template, store, steps_per_forward)
    assert not store.holds(template.key)
    assert store.stats().used_bytes == 0
