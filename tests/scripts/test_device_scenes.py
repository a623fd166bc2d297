"""Scenes composited in batches are what `scenes.py` draws one by one."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from builtin_recipe.caption_table import SIZE_WORDS, CaptionTable
from builtin_recipe.concepts import COLOURS, CONCEPTS, SIZES, every_caption
from builtin_recipe.device_atlas import DeviceAtlas, Squares
from builtin_recipe.device_backgrounds import backgrounds
from builtin_recipe.device_masks import COVERAGE, boxes, coverage, ellipses, masks_around, outlines, strokes
from builtin_recipe.device_scenes import DeviceScenes, SceneBatch
from builtin_recipe.draws import Draws
from builtin_recipe.pictures import load_atlas

COUNT, SIZE = 96, 128
WEIGHTS = (0.6, 0.25, 0.15)


def seeded(seed: int) -> Draws:
    return Draws(torch.Generator().manual_seed(seed))


@cache
def maker() -> DeviceScenes:
    return DeviceScenes(CONCEPTS, load_atlas(), WEIGHTS, "cpu", atlas_side=64)


@cache
def scenes(size: int = SIZE) -> SceneBatch:
    return maker().batch(COUNT, size, seeded(1))


def kinds(batch: SceneBatch) -> list[str]:
    return [CONCEPTS[i].kind for i in batch.concept.tolist()]


def texts(batch: SceneBatch) -> list[str]:
    return [maker().captions.texts[i] for i in batch.caption.tolist()]


def squares(*sides: float, left: float = 20, top: float = 30) -> Squares:
    side = torch.tensor(sides)
    return Squares(torch.full_like(side, left), torch.full_like(side, top), side)


@pytest.mark.parametrize("size", [SIZE, 192, 256])
def test_every_scene_changes_only_what_its_mask_covers(size: int) -> None:
    batch = scenes(size)
    assert batch.target.shape == batch.background.shape == (COUNT, 3, size, size)
    assert batch.mask.shape == (COUNT, 1, size, size)
    for picture in (batch.target, batch.background):
        assert picture.min() >= 0
        assert picture.max() <= 1 + 1e-5
    assert set(batch.mask.unique().tolist()) == {0.0, 1.0}
    difference = (batch.target - batch.background).abs()
    assert not (difference * (1 - batch.mask)).any()
    changed = (difference.amax((1, 2, 3)) > 0.02).tolist()
    assert changed == [kind != "nothing" for kind in kinds(batch)]
    low, high = COVERAGE
    assert coverage(batch.mask).min() >= low
    assert coverage(batch.mask).max() <= high
    assert coverage(batch.mask).max() - coverage(batch.mask).min() > 0.4


def test_the_mask_holds_the_object() -> None:
    at, never = squares(*[48.0] * 64, left=40, top=40), torch.zeros(64, dtype=torch.bool)
    alpha = DeviceAtlas(list(load_atlas().values()), 64, "cpu").lay(torch.arange(64), at, never, SIZE)[:, 3:]
    for sized in (never, ~never):
        mask = masks_around(at, alpha, sized, never, seeded(2))
        cut = (alpha * (1 - mask)).sum((1, 2, 3)) / alpha.sum((1, 2, 3))
        assert cut.max() < 0.06  # a round mask may cut the corners of a square
        assert (cut < 0.001).float().mean() > 0.6
    batch = maker().batch(COUNT, SIZE, seeded(2))
    object_area = batch.alpha.sum((1, 2, 3))
    assert not (batch.alpha * (1 - batch.mask)).any()
    assert [area > 0 for area in object_area.tolist()] == [kind != "nothing" for kind in kinds(batch)]


def test_masks_come_in_every_kind_that_fits_what_is_drawn() -> None:
    count = 300
    at, yes = squares(*[48.0] * count, left=40, top=40), torch.ones(count, dtype=torch.bool)
    alpha = torch.zeros(count, 1, SIZE, SIZE)
    alpha[:, :, 40:88, 40:88] = torch.ones(48, 48).tril()
    outlined = [outlines(alpha[:1], torch.tensor([reach]))[0] for reach in range(3, 9)]

    def kind(mask: Tensor) -> str:
        rows, columns = mask[0].any(1).nonzero()[:, 0], mask[0].any(0).nonzero()[:, 0]
        inner = mask[0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if inner.all():
            return "box"
        if torch.equal(inner, inner.flip(0)) and inner.mean() == pytest.approx(np.pi / 4, abs=0.03):
            return "ellipse"
        if any(torch.equal(mask, outline) for outline in outlined):
            return "outline"
        return "strokes"

    def shares(alpha: Tensor, sized: Tensor, nothing: Tensor) -> dict[str, float]:
        found = [kind(mask) for mask in masks_around(at, alpha, sized, nothing, seeded(0))]
        return {name: found.count(name) / count for name in sorted(set(found))}

    objects = shares(alpha, ~yes, ~yes)
    assert objects == pytest.approx({"box": 0.5, "ellipse": 0.18, "outline": 0.16, "strokes": 0.16}, abs=0.08)
    # An outline would give away how small the thing is to be.
    assert shares(alpha, yes, ~yes) == pytest.approx({"box": 0.6, "ellipse": 0.4}, abs=0.08)
    empty = shares(torch.zeros_like(alpha), ~yes, yes)
    assert empty == pytest.approx({"box": 0.3, "ellipse": 0.2, "strokes": 0.5}, abs=0.08)


def test_captions_name_the_concept_and_sized_ones_its_size() -> None:
    batch = scenes()
    area, masked = batch.alpha.sum((1, 2, 3)), batch.mask.sum((1, 2, 3))
    shares: dict[bool, list[float]] = {True: [], False: []}
    for i, (number, text) in enumerate(zip(batch.concept.tolist(), texts(batch), strict=True)):
        concept = CONCEPTS[number]
        assert text in every_caption(concept)
        if concept.kind != "nothing" and any(f"{word} " in f"{text} " for word in ("small", "tiny")):
            shares[True].append(float(area[i] / masked[i]))
        elif concept.kind != "nothing":
            shares[False].append(float(area[i] / masked[i]))
    assert len(shares[True]) >= 3
    assert np.median(shares[True]) < 0.5 * np.median(shares[False])


def test_all_kinds_come_as_often_as_asked_for() -> None:
    found = kinds(scenes())
    for kind, weight in zip(("pictured", "shape", "nothing"), WEIGHTS, strict=True):
        assert found.count(kind) / COUNT == pytest.approx(weight, abs=0.12)
    only = DeviceScenes(CONCEPTS[:3], load_atlas(), WEIGHTS, "cpu", atlas_side=32)
    assert set(only.batch(16, 64, seeded(0)).concept.tolist()) == {0, 1, 2}


def test_a_batch_is_the_same_every_time_and_no_other_batch() -> None:
    first, again, other = (maker().batch(4, 64, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.target, again.target)
    assert torch.equal(first.mask, again.mask)
    assert torch.equal(first.caption, again.caption)
    assert not torch.equal(first.target, other.target)


def others_shown(mask: Tensor, nothing: bool) -> Tensor:
    """Where things to leave alone show, [B, S, S]."""
    found = maker().surroundings(mask, torch.full((len(mask),), nothing), seeded(5))
    plain = backgrounds(len(mask), mask.shape[-1], seeded(5))
    return (found - plain).abs().amax(1) > 1e-4


def test_objects_to_leave_alone_are_in_some_scenes() -> None:
    shown = others_shown(torch.zeros(COUNT, 1, SIZE, SIZE), nothing=False)
    assert shown.flatten(1).any(1).float().mean() == pytest.approx(0.4, abs=0.12)


def test_a_mask_may_cut_objects_to_leave_alone_but_not_hide_them() -> None:
    mask = torch.ones(COUNT, 1, SIZE, SIZE)
    assert not others_shown(mask, nothing=False).any()
    mask[..., : SIZE // 2] = 0
    shown = others_shown(mask, nothing=False)
    hidden = (shown * mask[:, 0]).sum((1, 2)) / shown.sum((1, 2)).clamp(min=1)
    assert (hidden > 0.1).any()
    assert hidden.max() < 0.6  # of an object half, by what its pixels cover; these count alike here


def test_objects_to_leave_alone_stay_beside_an_empty_mask() -> None:
    mask = torch.zeros(COUNT, 1, SIZE, SIZE)
    mask[:, :, 30:90, 50:110] = 1
    shown = others_shown(mask, nothing=True)
    assert not (shown * mask[:, 0]).any()
    assert shown.flatten(1).any(1).float().mean() > 0.15
    nothing = DeviceScenes(CONCEPTS, load_atlas(), (0, 0, 1), "cpu", atlas_side=64).batch(COUNT, SIZE, seeded(5))
    assert torch.equal(nothing.target, nothing.background)


def test_shapes_have_their_colour_and_are_lit_from_above() -> None:
    batch = DeviceScenes(CONCEPTS, load_atlas(), (0, 1, 0), "cpu", atlas_side=64).batch(64, SIZE, seeded(6))
    for i, number in enumerate(batch.concept.tolist()):
        inside = batch.alpha[i, 0] > 0.99
        colour = torch.tensor(COLOURS[CONCEPTS[number].colour]) / 255
        assert (batch.target[i, :, inside].mean(1) - colour).abs().max() < 0.12
        rows = inside.any(1).nonzero()[:, 0]
        top, bottom = (batch.target[i, :, row, inside[row]].mean() for row in (rows[0], rows[-1]))
        assert top > bottom or CONCEPTS[number].colour in ("black", "white")


def test_a_picture_lies_in_its_square_mirrored_or_not() -> None:
    picture = load_atlas()["1f34c"]
    atlas = DeviceAtlas([picture], 64, "cpu")
    at = squares(64, 64, 20)
    layer = atlas.lay(torch.zeros(3, dtype=torch.long), at, torch.tensor([False, True, False]), SIZE)
    plain, mirrored = layer[0, :, 30:94, 20:84], layer[1, :, 30:94, 20:84]
    assert torch.allclose(mirrored, plain.flip(2), atol=1e-5)
    rgba = torch.from_numpy(np.asarray(picture.resize((64, 64)).convert("RGBa")).copy()).permute(2, 0, 1) / 255
    assert (plain - rgba).abs().max() < 1e-4
    outside = layer[:2].clone()
    outside[:, :, 29:95, 19:85] = 0
    assert not outside.any()
    small = torch.from_numpy(np.asarray(picture.convert("RGBa").resize((20, 20))).copy()).permute(2, 0, 1) / 255
    assert (layer[2, :, 30:50, 20:40] - small).abs().mean() < 0.03  # as smooth as a picture made small by PIL


@pytest.mark.parametrize("size", [64, 192])
def test_backgrounds_are_of_every_kind(size: int) -> None:
    found = backgrounds(200, size, seeded(0))
    assert found.shape == (200, 3, size, size)
    assert 0 <= found.min() <= found.max() <= 1
    spread = found.std((2, 3)).amax(1)
    assert 0.1 < (spread < 1e-3).float().mean() < 0.35  # plain ones without grain
    assert (spread > 0.1).float().mean() > 0.2


def test_masks_have_the_form_they_are_named_after() -> None:
    at = squares(40, 10)
    box = boxes(at, torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.5, 0.2, 0.1, 1.0]]), SIZE)
    assert box[0, 0, 30:70, 20:60].all()
    assert box[0].sum() == 40 * 40
    assert box[1].sum() == pytest.approx(10 * 1.6 * 10 * 2.2, rel=0.1)
    circle = ellipses(at, torch.tensor([0.1, 0.1]), SIZE)
    assert circle.sum((1, 2, 3)).tolist() == pytest.approx([np.pi * 24**2, np.pi * 6**2], rel=0.05)
    alpha = torch.zeros(2, 1, SIZE, SIZE)
    alpha[:, :, 50:60, 50:60] = 1
    wider = outlines(alpha, torch.tensor([3, 8]))
    assert wider.sum((1, 2, 3)).tolist() == [16 * 16, 26 * 26]
    brush = strokes(squares(*[40.0] * 32), SIZE, seeded(0))
    assert not brush[:, :, :, 70:].any()  # ends in the square, half a width beyond it
    assert 0.1 < brush.sum((1, 2, 3)).median() / 40**2 < 1
    assert len({int(n) for n in brush.sum((1, 2, 3))}) > 16


@pytest.mark.parametrize("side", [36.0, 108.0])
def test_a_mask_beyond_the_limits_becomes_the_square(side: float) -> None:
    at = squares(*[side] * 64, left=0, top=0)
    empty, nowhere = torch.zeros(64, 1, SIZE, SIZE), torch.zeros(64, dtype=torch.bool)
    found = masks_around(at, empty, ~nowhere, nowhere, seeded(0))
    assert coverage(found).min() >= COVERAGE[0]
    assert coverage(found).max() <= COVERAGE[1]
    if side > 100:
        tight: Tensor = boxes(at, torch.zeros(64, 4), SIZE)
        assert (found == tight).flatten(1).all(1).any()


def test_caption_numbers_stand_for_all_captions_once() -> None:
    table = CaptionTable(CONCEPTS, "cpu")
    assert table.texts[0] == ""
    assert len(set(table.texts)) == len(table.texts)
    assert set(table.texts[1:]) == {text for concept in CONCEPTS for text in every_caption(concept)}
    draws = seeded(0)
    for number, concept in enumerate(CONCEPTS[::9]):
        for word, text in enumerate(SIZE_WORDS):
            where = torch.full((50,), number * 9)
            drawn = table.draw(where, torch.full((50,), word), draws)
            assert len(set(drawn.tolist())) > 2
            for found in (table.texts[i] for i in drawn):
                assert found in every_caption(concept)
                if concept.kind != "nothing":
                    assert [w for w in SIZES if f"{w} " in f"{found} "] == [w for w in SIZES if w == text]


def test_draws_keep_to_their_limits() -> None:
    draws = seeded(0)
    limits = torch.tensor([0, 1, 2, 5]).repeat(200)
    found = draws.below(limits)
    assert (found >= 0).all()
    assert (found <= (limits - 1).clamp(min=0)).all()
    assert set(found[3::4].tolist()) == {0, 1, 2, 3, 4}
    chosen = draws.choice((1, 0, 3), 2000)
    assert set(chosen.tolist()) == {0, 2}
    assert (chosen == 2).float().mean() == pytest.approx(0.75, abs=0.05)
