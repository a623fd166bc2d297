"""What steps take beside what calibrated costs say: found again from steps that were drawn."""

from __future__ import annotations

import random

import pytest

from instgenie.replica.step_correction import ExpectedStep, StepCorrection

BASE = 2.0


def learnt(base_factor: float, factor: float, steps: int, spread: float = 0.0, seed: int = 0) -> tuple[float, float]:
    """Of steps that add 2 to 20 to the base, each as much longer or shorter as the spread says."""
    draw, correction = random.Random(seed), StepCorrection()
    for _ in range(steps):
        added = draw.uniform(2.0, 20.0)
        seconds = (base_factor * BASE + factor * added) * draw.uniform(1 - spread, 1 + spread)
        correction.observe(ExpectedStep(BASE, BASE + added), seconds)
    return correction.factors()


def test_nothing_is_corrected_before_the_first_step() -> None:
    assert StepCorrection().factors() == (1.0, 1.0)


def test_the_first_step_is_believed_at_once() -> None:
    assert learnt(1.5, 1.5, steps=1) == (1.5, 1.5)


def test_base_and_what_segments_add_are_told_apart() -> None:
    base_factor, factor = learnt(0.5, 1.1, steps=1000)
    assert base_factor == pytest.approx(0.5, abs=0.1)
    assert factor == pytest.approx(1.1, abs=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_sums_are_right_though_steps_differ(seed: int) -> None:
    """What is added up is what counts: a median or a mean of logarithms would be too low."""
    base_factor, factor = learnt(1.0, 1.2, steps=2000, spread=0.6, seed=seed)
    assert base_factor * BASE + factor * 10.0 == pytest.approx(BASE + 12.0, rel=0.1)


def test_steps_that_are_alike_do_not_tell_them_apart() -> None:
    correction = StepCorrection()
    for ratio in (1.0, 2.0) * 500:
        correction.observe(ExpectedStep(BASE, 10.0), 10.0 * ratio)
    base_factor, factor = correction.factors()
    assert base_factor == factor == pytest.approx(1.5, abs=0.01)


def test_one_odd_step_changes_little() -> None:
    correction = StepCorrection()
    for _ in range(200):
        correction.observe(ExpectedStep(BASE, 10.0), 10.0)
    correction.observe(ExpectedStep(BASE, 10.0), 10_000.0)
    assert max(correction.factors()) < 1.05


def test_neither_is_below_0() -> None:
    """Steps that take the less the more they compute say nothing that can be added up."""
    correction = StepCorrection()
    for added in (2.0, 20.0) * 500:
        correction.observe(ExpectedStep(BASE, BASE + added), 1 / added)
    assert min(correction.factors()) >= 0


@pytest.mark.parametrize("seed", range(10))
def test_few_steps_hardly_tell_them_apart(seed: int) -> None:
    base_factor, factor = learnt(1.0, 1.0, steps=5, spread=0.4, seed=seed)
    assert base_factor == pytest.approx(factor, abs=0.5)
