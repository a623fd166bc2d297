"""The benchmark of fidelity, on a tiny model: its books are right; the figures of pictures are the model's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import instgenie.correction
from bench.fidelity import by_mask, measured_settings
from bench.fidelity_edits import Edits
from bench.fidelity_measures import Likeness, gmsd, likeness, ms_ssim, summary
from bench.fidelity_settings import SETTINGS, Setting
from instgenie.checkpoint import load_checkpoint
from instgenie.fidelity import MeasuredSetting
from instgenie.request import EditRequest

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 12
DENSE_STEPS = {  # of 12, by setting
    "default": 1,
    "halo 1": 0,
    "halo 1, 3 refreshes": 3,
    "halo 1, first 2 steps dense": 2,
    "halo 1, every 5th step dense": 3,
}


def a_picture(seed: int, side: int = 192) -> NDArray[np.uint8]:
    """[S, S, 3], smooth."""
    small = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def test_likeness_of_equal_and_of_different_pictures() -> None:
    picture, other = a_picture(0), a_picture(1)
    ours, theirs = (p.astype(np.float32) / np.float32(255) for p in (picture, other))
    assert (round(ms_ssim(ours, ours), 6), gmsd(ours, ours)) == (1, 0)
    noisy = np.clip(ours + np.random.default_rng(0).normal(0, 0.05, ours.shape), 0, 1).astype(np.float32)
    assert 1 > ms_ssim(ours, noisy) > ms_ssim(ours, theirs)
    assert 0 < gmsd(ours, noisy) < gmsd(ours, theirs)
    mask = np.zeros((192, 192), bool)
    mask[50:90, 60:120] = True
    pasted = np.where(mask[..., None], other, picture)
    same = likeness(picture, picture, picture, mask, 0.3)
    assert (same.psnr_db, same.seam, same.is_outside_kept, same.cost) == (99, 1, True, 0.3)
    found = likeness(pasted, picture, picture, mask, 0.3)
    assert found.is_outside_kept
    assert found.psnr_db < 30
    assert found.seam > 1
    assert not likeness(other, picture, picture, mask, 0.3).is_outside_kept


def found(psnr_db: float, cost: float = 0.3, rank: int | None = None) -> Likeness:
    return Likeness(psnr_db, 0.99, 0.01, 1.0, True, cost, rank)


def test_summary_and_masks() -> None:
    edits = [found(30 + number, rank=number % 2) for number in range(11)]
    figures = summary(edits, 144)
    assert (figures["n"], figures["psnr_db"], figures["psnr_p10_db"], figures["psnr_worst_db"]) == (11, 35, 31, 30)
    assert (figures["top1"], figures["outside_kept"]) == (6 / 11, 11)
    assert "top1" not in summary([found(30)], 144)
    groups = by_mask(edits[:4], [0.05, 0.1, 0.15, 0.5], 144)
    assert {name: row["n"] for name, row in groups.items()} == {"below 0.1": 1, "0.1 to 0.2": 2, "from 0.35": 1}


def test_clients_choose_from_what_nothing_beats() -> None:
    def row(psnr_db: float, cost: float, n: int = 20) -> dict[str, float | int]:
        return {"psnr_p10_db": psnr_db, "cost": cost, "n": n}

    figures = {
        "halo 0": row(26, 0.2),
        "halo 1": row(31, 0.3),
        "default": row(38, 0.35, 200),
        "halo 2": row(33, 0.36),
        "halo 1, 2 refreshes": row(45, 0.4, 19),
        "halo 1, 3 refreshes": row(46, 0.42),
        "default, int8": row(60, 0.1),
    }
    assert measured_settings(figures, 20) == [
        MeasuredSetting(0, 0, 20, 26, 0.2),
        MeasuredSetting(1, 0, 20, 31, 0.3),
        MeasuredSetting(1, 1, 20, 38, 0.35),
        MeasuredSetting(1, 3, 20, 46, 0.42),
    ]


def test_edits_of_each_setting(tiny_builtin: Path) -> None:
    mask = np.zeros((64, 64), bool)
    mask[16:40, 16:40] = True
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    request = EditRequest(picture=picture, mask=mask, prompt="a pear", steps=STEPS)
    edits = Edits(load_checkpoint(tiny_builtin, torch.float32, torch.device("cpu")))
    dense, fade = edits.dense(request), instgenie.correction.FADE
    masked_share = 25 / 64  # nine tokens, and one around them
    for setting in SETTINGS:
        edited, cost = edits.cached(request, setting)
        assert (edited[~mask] == np.asarray(picture)[~mask]).all()
        assert edits.cost(request, setting) == pytest.approx(cost)
        if (steps := DENSE_STEPS.get(setting.name)) is not None:
            assert cost == pytest.approx((steps + (STEPS - steps) * masked_share) / STEPS)
        assert fade == instgenie.correction.FADE
    every = Setting("all", dense=range)
    assert (edits.cached(request, every)[0] == dense).all()
    assert edits.cached(request, every)[1] == 1
    errors = edits.errors(request, [Setting("halo 1", 1, 0), Setting("refreshed", 1, 4), replace(every, name="all")])
    assert {name: len(values) for name, values in errors.items()} == {"halo 1": STEPS, "refreshed": STEPS, "all": STEPS}
    assert max(errors["all"]) <= 1e-6
    assert 0 < errors["refreshed"][-1] < errors["halo 1"][-1]


def test_dense_steps_that_correct_nothing_are_not_refreshes(tiny_builtin: Path) -> None:
    """As many dense steps at the same place: those that are learnt from come closer to the dense edit."""
    mask = np.zeros((64, 64), bool)
    mask[16:40, 16:40] = True
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    request = EditRequest(picture=picture, mask=mask, prompt="a pear", steps=STEPS)
    edits = Edits(load_checkpoint(tiny_builtin, torch.float32, torch.device("cpu")))
    errors = edits.errors(request, [Setting("dense", 1, dense=lambda _: range(1)), Setting("refreshed", 1, 1)])
    assert errors["refreshed"][-1] < errors["dense"][-1]
