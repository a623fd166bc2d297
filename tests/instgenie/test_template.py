"""The template lane."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from instgenie.conditioning import image_ids
from instgenie.errors import ShapeError
from instgenie.models.segment import Segment
from instgenie.records import StepRecorder, from_record
from instgenie.template import record_template
from instgenie_cache import MemoryStore, Record, StoreFullError
from tests.instgenie.edits import WatchedForward
from tests.instgenie.tiny_flux import random_template, relative_error, tiny_forward

CPU = torch.device("cpu")
STEPS = 5


@pytest.mark.parametrize("distilled", [False, True])
def test_lane_records_every_block_of_every_step(distilled: bool) -> None:
    forward = tiny_forward(fill=True, guidance_embeds=distilled)
    template = random_template((3, 2), STEPS, 1, fill=True, guidance=2.0 if distilled else None)
    lane, by_hand = MemoryStore(1 << 20), MemoryStore(1 << 20)
    record_template(forward, template, lane)
    assert lane.holds(template.key)
    assert template.condition is not None
    form = template.form(forward)
    size = form.size(STEPS)
    with by_hand.create(template.key, size) as writer:
        for step, sigma in enumerate(template.sigmas[:-1]):
            latents = (1 - sigma) * template.trajectory.clean + sigma * template.trajectory.noise
            segment = Segment(
                torch.cat([latents, template.condition], dim=1),
                image_ids(template.grid),
                template.prompt.states,
                template.prompt.pooled,
                sigma,
                template.guidance,
                recorder=StepRecorder(writer, step),
            )
            forward([segment])
        writer.commit()
    for step in range(STEPS):
        lanes, hands = (records_of(store, template.key, step) for store in (lane, by_hand))
        assert len(lanes) == len(hands) == forward.num_blocks
        for record, expected in zip(lanes, hands, strict=True):
            assert record.shape == (2, 6, 2, 16)
            (key, value), (expected_key, expected_value) = (from_record(r, form, CPU) for r in (record, expected))
            assert relative_error(key, expected_key) <= 1e-5
            assert relative_error(value, expected_value) <= 1e-5
    assert lane.stats().used_bytes == size.num_bytes


def records_of(store: MemoryStore, template: str, step: int) -> Sequence[Record]:
    """The records of a step; they are there."""
    lease = store.lease(template)
    assert lease is not None
    records = lease.step(step)
    assert records is not None
    return records


def test_steps_differ() -> None:
    forward, store = tiny_forward(), MemoryStore(1 << 20)
    template = random_template((3, 2), 2, 1, fill=False, guidance=None)
    record_template(forward, template, store)
    first, second = (records_of(store, template.key, step) for step in range(2))
    assert first[0] != second[0]


def test_template_without_room_costs_no_computation() -> None:
    forward = WatchedForward(tiny_forward())
    template = random_template((3, 2), STEPS, 1, fill=False, guidance=None)
    store = MemoryStore(template.form(forward).size(STEPS).num_bytes - 1)
    with pytest.raises(StoreFullError):
        record_template(forward, template, store)
    assert not forward.calls
    assert not store.holds(template.key)


def test_lane_that_fails_leaves_nothing() -> None:
    forward, store = tiny_forward(), MemoryStore(1 << 20)
    template = random_template((3, 2), STEPS, 1, fill=True, guidance=None)  # channels that this model does not take
    with pytest.raises(ShapeError):
        record_template(forward, template, store)
    assert store.stats().used_bytes == 0
