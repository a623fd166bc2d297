"""Noise levels against diffusers' scheduler."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux_fill import calculate_shift
from hypothesis import given, settings
from hypothesis import strategies as st

from instgenie.errors import ParameterError
from instgenie.flow import MAX_STEPS, FlowShift, flow_sigmas

STEPS = [1, 2, 4, 20, 50]


def pipeline_sigmas(scheduler: FlowMatchEulerDiscreteScheduler, steps: int, mu: float | None) -> list[float]:
    """The levels that diffusers' Flux pipelines have the scheduler make."""
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    levels: list[float] = scheduler.sigmas.tolist()
    return levels


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", STEPS)
def test_static_shift_equals_the_scheduler(shift: float, steps: int) -> None:
    expected = pipeline_sigmas(FlowMatchEulerDiscreteScheduler(shift=shift), steps, None)
    assert flow_sigmas(steps, FlowShift(shift=shift), 1024) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("num_tokens", [16, 256, 1024, 4096, 9216])
@pytest.mark.parametrize(
    "shift", [FlowShift(shift=3.0, dynamic=True), FlowShift(1.0, True, 100, 2000, 0.3, 1.7)], ids=["flux", "other"]
)
def test_dynamic_shift_equals_the_scheduler(shift: FlowShift, num_tokens: int, steps: int) -> None:
    bases = (shift.base_tokens, shift.max_tokens, shift.base_shift, shift.max_shift)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift.shift, use_dynamic_shifting=True)
    expected = pipeline_sigmas(scheduler, steps, calculate_shift(num_tokens, *bases))
    assert flow_sigmas(steps, shift, num_tokens) == pytest.approx(expected, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, MAX_STEPS), st.floats(0.3, 12), st.floats(0, 1, exclude_min=True))
def test_levels_fall_from_one_to_zero(steps: int, shift: float, strength: float) -> None:
    levels = flow_sigmas(steps, FlowShift(shift=shift), 64, strength)
    assert list(levels) == sorted(levels, reverse=True)
    assert len(set(levels)) == len(levels) >= 2
    assert levels[0] <= 1 + 1e-12  # rounding
    assert levels[-1] == 0
    assert levels == flow_sigmas(steps, FlowShift(shift=shift), 64)[-len(levels) :]
    assert len(levels) == pytest.approx(steps * strength + 1.5, abs=0.51)


@pytest.mark.parametrize(
    ("steps", "strength", "run"),
    [
        (20, 1.0, 20),
        (20, 0.5, 10),
        (20, 0.51, 11),
        (20, 0.05, 1),
        (20, 0.01, 1),
        (10, 0.3, 3),
        (10, 0.7, 7),
        (3, 0.4, 2),
    ],
)
def test_strength_is_the_share_that_is_run(steps: int, strength: float, run: int) -> None:
    assert len(flow_sigmas(steps, FlowShift(), 64, strength)) == run + 1


@pytest.mark.parametrize("strength", [1.0, 0.85, 0.5, 0.25])
@pytest.mark.parametrize("steps", [4, 20, 28])
def test_strength_starts_where_diffusers_starts(steps: int, strength: float) -> None:
    start = int(max(steps - min(steps * strength, steps), 0))  # get_timesteps of the Flux pipelines
    expected = flow_sigmas(steps, FlowShift(shift=3.0), 64)[start:]
    assert flow_sigmas(steps, FlowShift(shift=3.0), 64, strength) == expected


@pytest.mark.parametrize("steps", [0, -1, MAX_STEPS + 1])
def test_steps_outside_the_limits(steps: int) -> None:
    with pytest.raises(ParameterError, match=f"steps: {steps} is not in 1..1000") as caught:
        flow_sigmas(steps, FlowShift(), 64)
    assert caught.value.parameter == "steps"


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.01, math.nan])
def test_strength_outside_the_limits(strength: float) -> None:
    with pytest.raises(ParameterError, match=f"strength: {strength} is not in 0 < strength <= 1"):
        flow_sigmas(4, FlowShift(), 64, strength)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shift": None}, "shift: None is not a number"),
        ({"shift": "3.0"}, "shift: '3.0' is not a number"),
        ({"shift": True}, "shift: True is not a number"),
        ({"shift": 0.0}, "shift: 0.0 is not in 1e-06..1e+06"),
        ({"shift": -3}, "shift: -3 is not in 1e-06..1e+06"),
        ({"shift": 1e300}, "shift: 1e+300 is not in 1e-06..1e+06"),
        ({"shift": 10**400}, f"shift: {10**400} is not in 1e-06..1e+06"),  # JSON has such numbers, float has not
        ({"shift": math.inf}, "shift: inf is not in 1e-06..1e+06"),
        ({"base_shift": math.nan}, "base_shift: nan is not in -13.8155..13.8155"),
        ({"max_shift": 1150}, "max_shift: 1150 is not in -13.8155..13.8155"),
        ({"max_shift": None}, "max_shift: None is not a number"),
        ({"dynamic": "yes"}, "dynamic: 'yes' is neither true nor false"),
        ({"dynamic": 1}, "dynamic: 1 is neither true nor false"),
        ({"base_tokens": 256.0}, "base_tokens: 256.0 is not a whole number"),
        ({"base_tokens": True}, "base_tokens: True is not a whole number"),
        ({"base_tokens": 4096}, "max_tokens: 4096 is not above base_tokens, 4096"),
        ({"base_tokens": 0}, "base_tokens: 0 is not in 1..1e+09"),
        ({"max_tokens": 10**400}, f"max_tokens: {10**400} is not in 1..1e+09"),
    ],
)
def test_shift_that_no_schedule_can_have(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        FlowShift(**values)
    assert str(caught.value) == message


SHIFTS = st.builds(
    FlowShift,
    shift=st.floats(1e-6, 1e6),
    dynamic=st.booleans(),
    base_tokens=st.integers(1, 4096),
    max_tokens=st.integers(4097, 10**9),
    base_shift=st.floats(-13, 13),
    max_shift=st.floats(-13, 13),
)


@settings(deadline=None, max_examples=200)
@given(SHIFTS, st.integers(1, MAX_STEPS), st.integers(1, 10**6))
def test_every_shift_that_is_taken_has_a_schedule(shift: FlowShift, steps: int, num_tokens: int) -> None:
    levels = flow_sigmas(steps, shift, num_tokens)
    assert all(high > low for high, low in pairwise(levels))
    assert levels[0] == pytest.approx(1)


def test_steep_line_through_two_close_bases_has_a_schedule() -> None:
    for base_shift, max_shift in ((0.5, 1.15), (1.15, 0.5)):
        levels = flow_sigmas(28, FlowShift(1.0, True, 256, 257, base_shift, max_shift), 65_536)
        assert all(high > low for high, low in pairwise(levels))
