"""Trajectories and noise."""

from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from instgenie.trajectory import Trajectory, seeded_noise


def test_noise_is_a_function_of_the_seed() -> None:
    torch.manual_seed(0)
    first = seeded_noise((64, 32), 7)
    torch.manual_seed(1)
    assert first.dtype == torch.float32
    assert torch.equal(seeded_noise((64, 32), 7), first)
    assert not torch.equal(seeded_noise((64, 32), 8), first)
    assert first.mean().abs() < 0.1
    assert first.std() == pytest.approx(1, abs=0.1)


def test_noise_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    seeded_noise((4,), 7)
    assert torch.equal(torch.get_rng_state(), before)


def test_largest_seed_is_taken() -> None:
    assert seeded_noise((2,), 2**63 - 1).shape == (2,)


def test_trajectory_runs_from_noise_to_the_template() -> None:
    trajectory = Trajectory(seeded_noise((5, 3), 1), seeded_noise((5, 3), 2))
    assert torch.equal(trajectory.at(0.0), trajectory.clean)
    assert torch.equal(trajectory.at(1.0), trajectory.noise)
    torch.testing.assert_close(trajectory.at(0.3), 0.7 * trajectory.clean + 0.3 * trajectory.noise)


def test_trajectory_is_the_schedulers_noising() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(6)
    trajectory = Trajectory(seeded_noise((1, 5, 3), 1), seeded_noise((1, 5, 3), 2))
    for sigma, timestep in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
        expected = scheduler.scale_noise(trajectory.clean, timestep[None], trajectory.noise)
        torch.testing.assert_close(trajectory.at(float(sigma)), expected)
