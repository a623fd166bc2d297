"""The pictures that the embedded model learns from and is measured with."""

from __future__ import annotations

import random

import numpy as np
import pytest

from builtin_recipe.concepts import (
    COLOURS,
    HELD_OUT_CAPTIONS,
    SHAPES,
    all_concepts,
    every_caption,
    phrase,
    shape_outline,
)
from builtin_recipe.evaluation import held_out_cases, nearest_shape, psnr_in_mask, ranked
from builtin_recipe.scenes import load_atlas, make_scene


def test_every_scene_changes_only_what_its_mask_covers() -> None:
    pictures, words, rng = load_atlas(), random.Random(1), np.random.default_rng(1)
    for concept in all_concepts():
        scene = make_scene(concept, 128, pictures, rng, words)
        changed = np.abs(scene.target - scene.background).max(2) > 0.02
        outside = changed & (scene.mask == 0)  # a round mask may cut the corners of a square
        assert scene.mask.any()
        assert outside.sum() <= 0.06 * max(changed.sum(), 1), concept.label
        assert changed.any() == (concept.kind != "nothing")


def test_captions_name_the_concept_and_held_out_forms_are_not_trained_on() -> None:
    for concept in all_concepts():
        captions = every_caption(concept)
        assert all(any(name in caption for name in concept.names) for caption in captions)
        assert not {phrase(form, concept.names[0]) for form in HELD_OUT_CAPTIONS} & set(captions)


def test_the_article_fits_the_name() -> None:
    assert phrase("add a {}", "orange") == "add an orange"
    assert phrase("add a {}", "unicorn") == "add a unicorn"


def test_shapes_are_drawn_inside_the_unit_square() -> None:
    for shape in SHAPES:
        for polygon in shape_outline(shape):
            assert all(-0.05 <= value <= 1.1 for point in polygon for value in point)
    with pytest.raises(ValueError, match="unknown shape 'blob'"):
        shape_outline("blob")


def test_retrieval_finds_what_was_drawn_and_not_what_was_not() -> None:
    pictures = load_atlas()
    cases = held_out_cases("pictured", 24, 192, pictures)
    labels = [case.scene.concept.label for case in cases]
    drawn = [ranked(case.scene.target, case, label, pictures) for case, label in zip(cases, labels, strict=True)]
    empty = [ranked(case.scene.background, case, label, pictures) for case, label in zip(cases, labels, strict=True)]
    assert sum(place == 0 for place in drawn) >= 23
    assert sum(place == 0 for place in empty) <= 5


def test_nearest_shape_tells_colours_and_shapes() -> None:
    cases = held_out_cases("shape", 12, 128, load_atlas())
    assert {case.scene.concept.colour for case in cases} <= set(COLOURS)
    assert all(nearest_shape(case.scene.target, case) == case.scene.concept for case in cases)


def test_psnr_in_mask_looks_inside_the_mask_only() -> None:
    first = np.zeros((8, 8, 3), np.float32)
    second, mask = first.copy(), np.zeros((8, 8), np.float32)
    mask[2:4, 2:4] = 1
    second[6, 6] = 1
    assert psnr_in_mask(first, second, mask) == 99.0
    second[2:4, 2:4] = 0.1
    assert psnr_in_mask(first, second, mask) == pytest.approx(20, abs=0.01)
