"""How far a step's K and V drifted."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from instgenie.drift import DriftMeter
from instgenie.models.segment import KeyValue
from instgenie.trajectory import seeded_noise


def random_step(seed: int, blocks: int = 2, tokens: int = 30, dtype: torch.dtype = torch.float32) -> list[KeyValue]:
    """K and V of a step, 2 heads of 4 channels."""
    both = seeded_noise((blocks, 2, tokens, 2, 4), seed).to(dtype)
    return [KeyValue(key, value) for key, value in both]


def moved(step: list[KeyValue], by: float, seed: int = 9) -> list[KeyValue]:
    """A step whose K and V are that far away, relatively."""

    def move(tensor: Tensor, number: int) -> Tensor:
        noise = seeded_noise(tuple(tensor.shape), seed + number)
        return tensor + noise * float(by * tensor.norm() / noise.norm())

    return [KeyValue(move(kv.key, 2 * number), move(kv.value, 2 * number + 1)) for number, kv in enumerate(step)]


def drift_of(meter: DriftMeter, step: list[KeyValue]) -> float:
    for block, kv in enumerate(step):
        meter.see(block, kv)
    return meter.drift()


def meter_that_kept(step: list[KeyValue]) -> DriftMeter:
    meter = DriftMeter()
    assert drift_of(meter, step) == math.inf
    meter.keep()
    return meter


def test_first_step_is_infinitely_far() -> None:
    assert drift_of(DriftMeter(), random_step(1)) == math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_step_has_not_drifted(dtype: torch.dtype) -> None:
    step = random_step(1, dtype=dtype)
    assert drift_of(meter_that_kept(step), step) == 0


@pytest.mark.parametrize("by", [0.01, 0.5, 3.0])
def test_drift_is_relative_to_what_was_kept(by: float) -> None:
    step = random_step(1)
    small, large = ([KeyValue(scale * k, scale * v) for k, v in step] for scale in (1e-3, 1e3))
    for kept in (step, small, large):
        assert drift_of(meter_that_kept(kept), moved(kept, by)) == pytest.approx(by, rel=1e-4)


def test_it_is_measured_from_the_last_step_that_was_kept() -> None:
    step = random_step(1)
    far, farther = moved(step, 0.5), moved(step, 1.0)
    meter = meter_that_kept(step)
    assert drift_of(meter, far) == pytest.approx(0.5, rel=1e-4)
    assert drift_of(meter, farther) == pytest.approx(1.0, rel=1e-4)  # the one before was not kept
    meter.keep()
    assert drift_of(meter, farther) == 0


def test_keys_and_values_weigh_alike_whatever_their_lengths() -> None:
    kept = [KeyValue(100 * key, value) for key, value in random_step(1)]
    other = moved(kept, 0.4)
    of_keys = drift_of(meter_that_kept(kept), [KeyValue(o.key, k.value) for k, o in zip(kept, other, strict=True)])
    of_values = drift_of(meter_that_kept(kept), [KeyValue(k.key, o.value) for k, o in zip(kept, other, strict=True)])
    assert of_keys == pytest.approx(0.4 / math.sqrt(2), rel=1e-4)
    assert of_values == pytest.approx(of_keys, rel=1e-4)


def test_drift_of_a_step_is_the_mean_of_its_blocks() -> None:
    step = random_step(1, blocks=3)
    mixed = [step[0], moved(step, 0.3)[1], moved(step, 0.9)[2]]
    assert drift_of(meter_that_kept(step), mixed) == pytest.approx(0.4, rel=1e-4)


@pytest.mark.parametrize("tokens", [1, 256, 600, 4096])
def test_some_tokens_stand_for_all(tokens: int) -> None:
    step = random_step(1, tokens=tokens)
    assert drift_of(meter_that_kept(step), moved(step, 0.2)) == pytest.approx(0.2, rel=0.1 if tokens > 500 else 1e-4)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_what_is_no_number_is_infinitely_far(odd: float) -> None:
    step = random_step(1)
    assert drift_of(meter_that_kept(step), [KeyValue(k * odd, v) for k, v in step]) == math.inf
    assert drift_of(meter_that_kept([KeyValue(k * odd, v) for k, v in step]), step) == math.inf


def test_zeros_that_were_kept_are_no_error() -> None:
    nothing = [KeyValue(torch.zeros(3, 2, 4), torch.zeros(3, 2, 4))]
    assert drift_of(meter_that_kept(nothing), nothing) == 0
    assert drift_of(meter_that_kept(nothing), random_step(1, blocks=1, tokens=3)) > 1e6
