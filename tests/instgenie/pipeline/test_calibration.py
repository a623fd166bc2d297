"""Calibration finds what blocks take, in the time that it is given, on a machine that does other things too."""

from __future__ import annotations

import copy
import logging
import random
from dataclasses import replace

import pytest
import torch

from instgenie.checkpoint import Checkpoint
from instgenie.codecs import CODEC_NAMES, CodecName
from instgenie.models.flux import FluxForward
from instgenie.pipeline.calibration import calibrate, refresh
from instgenie.pipeline.cost import CostModel, SegmentShape
from instgenie.pipeline.probe import UsualEdit, random_probes
from tests.instgenie.pipeline.timed_forward import DOUBLE, SINGLE, TimedForward
from tests.instgenie.tiny_flux import tiny_forward

EDIT = UsualEdit(canvas_tokens=576, text_tokens=16)
SHAPES = [[SegmentShape(16, round(share * 576), 576)] * batch for share in (0.05, 0.25, 0.5, 1.0) for batch in (1, 2)]


def calibrated(forward: TimedForward, limit_s: float = 2.0) -> CostModel:
    return calibrate(forward, EDIT, limit_s, lambda: forward.now)


def test_costs_are_found() -> None:
    costs = calibrated(TimedForward())
    assert costs.kinds == ("double", "double", "single", "single")
    assert costs.r_squared == pytest.approx({"double": 1, "single": 1})
    for shapes in SHAPES:
        assert costs.block_ms("double", shapes) == pytest.approx(DOUBLE.predict(shapes), rel=1e-3)
        assert costs.block_ms("single", shapes) == pytest.approx(SINGLE.predict(shapes), rel=1e-3)
        rows = sum(shape.text_tokens + shape.active_tokens for shape in shapes)
        assert costs.overhead_ms(shapes) == pytest.approx(1.2 + 2e-3 * rows, rel=1e-3)


def test_other_programs_do_not_mislead_it() -> None:
    generator = random.Random(3)
    costs = calibrated(TimedForward(lambda _: generator.choice([1.0, 1.02, 2.0, 5.0])))
    assert costs.is_trusted
    for shapes in SHAPES:
        assert costs.block_ms("single", shapes) == pytest.approx(SINGLE.predict(shapes), rel=0.15)


@pytest.mark.parametrize("slowness", [1.0, 10.0, 50.0])
def test_it_stops_in_time(slowness: float) -> None:
    forward = TimedForward(lambda _: slowness)
    costs = calibrated(forward)
    assert costs.is_trusted
    assert forward.now <= 2.05 or len(forward.passes) == 4  # the least that tells something
    assert costs.block_ms("single", SHAPES[2]) == pytest.approx(slowness * SINGLE.predict(SHAPES[2]), rel=0.3)


def test_a_machine_without_rhyme_or_reason_is_not_trusted(caplog: pytest.LogCaptureFixture) -> None:
    generator = random.Random(1)
    forward = TimedForward(lambda _: 50 * generator.lognormvariate(0, 2.5))
    costs = calibrated(forward)
    assert not costs.is_trusted
    assert "not trusted" in caplog.text


def test_it_says_how_good_the_fit_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    calibrated(TimedForward())
    assert "double blocks: R^2 1.0000 over 9 shapes" in caplog.text
    assert "single blocks: R^2 1.0000 over 9 shapes" in caplog.text


@pytest.mark.parametrize("codec", CODEC_NAMES)
@pytest.mark.parametrize("decodes_ahead", [False, True])
def test_a_real_model(codec: CodecName, *, decodes_ahead: bool) -> None:
    """What a tiny model takes scatters: no more than signs are sure."""
    state = torch.get_rng_state()
    costs = calibrate(tiny_forward(fill=True), UsualEdit(1024, 4, codec, decodes_ahead), 0.3)
    assert torch.equal(torch.get_rng_state(), state)
    assert set(costs.r_squared) == {"double", "single"}
    assert all(value <= 1 for value in costs.r_squared.values())
    few, many = [SegmentShape(4, 16, 1024)], [SegmentShape(4, 1024, 1024)] * 4
    assert 0 < costs.block_ms("double", few) < costs.block_ms("double", many)
    assert 0 < costs.block_ms("single", few) < costs.block_ms("single", many)
    assert costs.overhead_ms(few) > 0
    assert (costs.load_ms("host", 100_000) > 0) == (decodes_ahead and codec != "raw")
    assert costs.load_ms("host", 100_000) < costs.load_ms("disk", 100_000) < costs.load_ms("object", 100_000)


def test_kinds_of_one_block_each(builtin_kind: Checkpoint, flux_fill_kind: Checkpoint) -> None:
    for checkpoint in (builtin_kind, flux_fill_kind):
        settings = checkpoint.settings
        costs = calibrate(checkpoint.forward, UsualEdit(settings.canvas_tokens, settings.text_tokens), 0.2)
        assert costs.kinds == ("double", "single")
        assert min(costs.blocks_ms([SegmentShape(8, 4, 16)])) > 0


@pytest.mark.parametrize(("passes", "contexts"), [(1, 4), (2, 2), (4, 1)])
def test_segments_of_one_edit_share_its_records_and_no_others_do(passes: int, contexts: int) -> None:
    [probe] = random_probes(tiny_forward(), replace(EDIT, passes=passes), [(1.0, 0.1, 4)])
    assert len({id(segment.context) for segment in probe.segments}) == contexts


@pytest.mark.parametrize("slowness", [0.25, 1.0, 3.0])
def test_refreshed_costs_are_todays(slowness: float) -> None:
    costs = calibrated(TimedForward())
    forward = TimedForward(lambda _: slowness)
    refresh(forward, EDIT, costs, clock=lambda: forward.now)
    for shapes in SHAPES:
        assert costs.block_ms("single", shapes) == pytest.approx(slowness * SINGLE.predict(shapes), rel=0.35)


def test_refreshing_a_slow_model_takes_two_passes() -> None:
    costs = calibrated(TimedForward())
    forward = TimedForward(lambda _: 100.0)
    refresh(forward, EDIT, costs, clock=lambda: forward.now)
    assert len(forward.passes) == 3


@pytest.mark.parametrize("canvas_tokens", [1, 2, 7])
def test_a_canvas_of_few_tokens(canvas_tokens: int) -> None:
    forward = TimedForward()
    costs = calibrate(forward, replace(EDIT, canvas_tokens=canvas_tokens), clock=lambda: forward.now)
    shapes = [SegmentShape(16, canvas_tokens, canvas_tokens)]
    assert costs.block_ms("single", shapes) == pytest.approx(SINGLE.predict(shapes), rel=0.01)


@pytest.mark.gpu
def test_on_a_cuda_device() -> None:
    forward = FluxForward(copy.deepcopy(tiny_forward().transformer).to("cuda"))
    costs = calibrate(forward, UsualEdit(1024, 16, "int8", decodes_ahead=True), 2.0)
    assert costs.block_ms("double", [SegmentShape(16, 1024, 1024)]) > 0
    assert 0 < costs.load_ms("host", 1_000_000) < costs.load_ms("host", 100_000_000)
