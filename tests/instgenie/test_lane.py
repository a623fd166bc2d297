"""The template lane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean

import pytest
import torch

from instgenie.codecs import CODEC_NAMES, CodecName
from instgenie.conditioning import image_ids
from instgenie.errors import ShapeError
from instgenie.keyframes import Keyframes
from instgenie.lane import Lane, record_template
from instgenie.models.segment import KeyValue, Segment
from instgenie.records import DeviceRecord, StepRecorder, from_record
from instgenie_cache import MemoryStore, Record, StoreFullError
from tests.instgenie.batches import put_record
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


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_only_steps_that_drifted_are_recorded(codec: CodecName) -> None:
    forward, every, some = tiny_forward(), MemoryStore(1 << 20), MemoryStore(1 << 20)
    template = replace(random_template((4, 4), 12, 1, fill=False, guidance=None), codec=codec)
    record_template(forward, template, every)
    record_template(forward, replace(template, drift=0.3), some)
    lease = some.lease(template.key)
    assert lease is not None
    keyframes = Keyframes.read(lease.note, 12)
    assert 2 < len(keyframes.kept) < 9
    for row, step in enumerate(keyframes.kept):
        assert list(records_of(some, template.key, row)) == list(records_of(every, template.key, step))
    assert lease.step(len(keyframes.kept)) is None
    size = template.form(forward).size(len(keyframes.kept))
    assert some.num_bytes(template.key) == some.stats().used_bytes == size.num_bytes


def test_steps_are_kept_where_they_are_far_from_the_last_kept_one() -> None:
    forward, every, limit = tiny_forward(), MemoryStore(1 << 20), 0.2
    template = random_template((4, 4), 12, 1, fill=False, guidance=None)
    record_template(forward, template, every)
    form = template.form(forward)
    steps = [[from_record(r, form, CPU) for r in records_of(every, template.key, step)] for step in range(12)]
    kept = [0]
    for step in range(1, 12):
        if mean_distance(steps[step], steps[kept[-1]]) > limit:
            kept.append(step)
    some = MemoryStore(1 << 20)
    record_template(forward, replace(template, drift=limit), some)
    lease = some.lease(template.key)
    assert lease is not None
    assert Keyframes.read(lease.note, 12).kept == tuple(kept)
    assert 2 < len(kept) < 12


def mean_distance(step: Sequence[KeyValue], kept: Sequence[KeyValue]) -> float:
    """Over the blocks: of K and V, relative to those that were kept, the root mean square of the two."""
    of_blocks = []
    for ours, theirs in zip(step, kept, strict=True):
        of_both = [float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True)]
        of_blocks.append(math.hypot(*of_both) / math.sqrt(2))
    return fmean(of_blocks)


def test_without_drift_nothing_is_noted() -> None:
    forward, store = tiny_forward(), MemoryStore(1 << 20)
    template = random_template((3, 2), 2, 1, fill=False, guidance=None)
    record_template(forward, template, store)
    lease = store.lease(template.key)
    assert lease is not None
    assert lease.note == b""


@pytest.mark.parametrize("drift", [0.0, 0.3])
def test_lane_that_is_given_up_leaves_nothing(drift: float) -> None:
    forward, store, checks = tiny_forward(), MemoryStore(1 << 20), iter([False, False, True])
    template = replace(random_template((3, 2), STEPS, 1, fill=False, guidance=None), drift=drift)

    def check() -> None:
        if next(checks):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        record_template(forward, template, store, check)
    assert store.stats().used_bytes == 0
    assert not store.holds(template.key)


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


class KeptRecords:
    """Notes what a lane puts, and makes a template of it."""

    def __init__(self) -> None:
        self.puts: list[tuple[int, int]] = []

    def put(self, row: int, block: int, record: DeviceRecord) -> None:
        assert record.payload.dtype == torch.uint8
        self.puts.append((row, block))


@pytest.mark.parametrize("keeps_steps", [True, False])
def test_steps_are_there_for_edits_while_they_are_recorded_and_longer_where_they_are_kept(
    keeps_steps: bool,
) -> None:
    forward, kept = tiny_forward(), KeptRecords()
    template = random_template((3, 2), STEPS, 1, fill=False, guidance=None)
    lane = Lane(forward, template, kept.put, keeps_steps=keeps_steps)
    positions = torch.tensor([1, 4])
    assert lane.context(0, positions) is None
    segment = lane.segment(0)
    forward([segment])
    context = lane.context(0, positions)
    assert context is not None
    last = forward.num_blocks - 1
    last_block = context.context(last)
    assert last_block.key.shape == (2, 2, 16)
    lane.finish_step(0, 1.5)
    assert (lane.next_step, lane.compute_ms, lane.done) == (1, 1.5, False)
    later = lane.context(0, positions)
    assert (later is not None) is keeps_steps
    if later is not None:
        assert torch.equal(later.context(last).key, last_block.key)
        assert later.context(0).value.shape == (2, 2, 16)
    assert lane.num_bytes == template.form(forward).step_bytes * (STEPS if keeps_steps else 1)


def test_step_that_is_computed_again_is_put_once() -> None:
    forward, kept = tiny_forward(), KeptRecords()
    template = random_template((3, 2), STEPS, 1, fill=False, guidance=None)
    lane = Lane(forward, template, kept.put)

    def fail(block: int) -> None:
        if block == 1:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        forward([lane.segment(0)], fail)
    assert kept.puts == [(0, 0), (0, 1)]
    forward([lane.segment(0)])
    lane.finish_step(0, 1.0)
    assert kept.puts == [(0, block) for block in range(forward.num_blocks)]


def test_steps_of_one_pass_are_those_of_several() -> None:
    """They do not depend on each other."""
    forward, one, several = tiny_forward(), MemoryStore(1 << 20), MemoryStore(1 << 20)
    template = random_template((3, 2), STEPS, 1, fill=False, guidance=None)
    record_template(forward, template, several)
    form = template.form(forward)
    with one.create(template.key, form.size(STEPS)) as writer:
        lane = Lane(forward, template, partial(put_record, writer))
        forward([lane.segment(step) for step in range(STEPS)])
        for step in range(STEPS):
            lane.finish_step(step, 1.0)
        assert lane.done
        writer.commit()
    for step in range(STEPS):
        for ours, theirs in zip(*(records_of(store, template.key, step) for store in (one, several)), strict=True):
            pairs = zip(from_record(ours, form, CPU), from_record(theirs, form, CPU), strict=True)
            assert max(relative_error(a, b) for a, b in pairs) <= 1e-5


def test_nobody_rides_with_a_lane_that_leaves_steps_out() -> None:
    forward, kept = tiny_forward(), KeptRecords()
    template = replace(random_template((3, 2), STEPS, 1, fill=False, guidance=None), drift=0.3)
    lane = Lane(forward, template, kept.put, keeps_steps=True)
    assert (lane.rides, lane.keeps_steps) == (False, False)
    forward([lane.segment(0)])
    assert lane.context(0, torch.tensor([1])) is None
