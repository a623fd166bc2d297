"""The scenes that the embedded model learns from."""

from __future__ import annotations

import random

import numpy as np
import pytest

from builtin_recipe.concepts import (
    HELD_OUT_CAPTIONS,
    HELD_OUT_NOTHING,
    NOTHING,
    SHAPES,
    SIZES,
    all_concepts,
    caption,
    every_caption,
    phrase,
    shape_outline,
)
from builtin_recipe.pictures import load_atlas
from builtin_recipe.scenes import Place, make_scene


def test_every_scene_changes_only_what_its_mask_covers() -> None:
    pictures, words, rng = load_atlas(), random.Random(1), np.random.default_rng(1)
    for concept in all_concepts():
        scene = make_scene(concept, 128, pictures, rng, words)
        changed = np.abs(scene.target - scene.background).max(2) > 0.02
        outside = changed & (scene.mask == 0)  # a round mask may cut the corners of a square
        assert scene.mask.any()
        assert outside.sum() <= 0.06 * max(changed.sum(), 1), concept.label
        assert changed.any() == (concept.kind != "nothing")


def test_an_object_to_leave_alone_stays_beside_the_mask_of_nothing() -> None:
    pictures, nothing = load_atlas(), all_concepts()[-1]
    with_another = 0
    for seed in range(60):
        bare, scene = (
            make_scene(nothing, 192, pictures, np.random.default_rng(seed), random.Random(seed), others=others)
            for others in (0, 1)
        )
        assert np.array_equal(scene.mask, bare.mask)
        assert np.array_equal(scene.target, scene.background)
        changed = np.abs(scene.background - bare.background).max(2) > 0.02
        assert not (changed * scene.mask).any()
        with_another += changed.sum() > 100
    assert with_another >= 55
    drawn = [make_scene(nothing, 192, pictures, np.random.default_rng(s), random.Random(s)) for s in range(60)]
    bare_ones = [
        make_scene(nothing, 192, pictures, np.random.default_rng(s), random.Random(s), others=0) for s in range(60)
    ]
    shares = [not np.array_equal(a.target, b.target) for a, b in zip(drawn, bare_ones, strict=True)]
    assert 0.2 < np.mean(shares) < 0.6  # training has them in 40 % of its scenes


def test_object_and_mask_stay_in_their_place() -> None:
    pictures, words, rng = load_atlas(), random.Random(2), np.random.default_rng(2)
    place = Place(48, 16, 56)
    inside = np.zeros((128, 128), bool)
    inside[16:72, 48:104] = True
    for concept in all_concepts()[::5]:
        scene = make_scene(concept, 128, pictures, rng, words, place)
        assert not scene.mask[~inside].any()
        assert np.array_equal(scene.target[~inside], scene.background[~inside])


@pytest.mark.parametrize(("word", "other"), [("small", "big"), ("tiny", "large")])
def test_a_size_word_scales_the_object_not_the_mask(word: str, other: str) -> None:
    pictures, concept = load_atlas(), all_concepts()[0]
    shares = []
    for size_word in (word, other):
        scene = make_scene(concept, 192, pictures, np.random.default_rng(3), random.Random(3), size_word=size_word)
        assert f"{size_word} " in scene.caption
        changed = np.abs(scene.target - scene.background).max(2) > 0.02
        shares.append(changed.sum() / scene.mask.sum())
    assert shares[0] < 0.6 * shares[1]


def test_captions_name_the_concept_and_held_out_ones_are_not_trained_on() -> None:
    for concept in all_concepts():
        captions = set(every_caption(concept))
        assert all(any(name in text for name in concept.names) for text in captions)
        held_out = {phrase(form, name) for form in HELD_OUT_CAPTIONS for name in concept.names}
        assert not held_out & captions
        words = random.Random(0)
        assert {caption(concept, words, words.choice(["", *SIZES])) for _ in range(50)} <= captions
    assert not set(HELD_OUT_NOTHING) & set(NOTHING)


def test_no_name_means_two_things() -> None:
    names = [name for concept in all_concepts() for name in concept.names]
    assert len(set(names)) == len(names)


def test_the_article_fits_the_name() -> None:
    assert phrase("add a {}", "orange") == "add an orange"
    assert phrase("add a {}", "unicorn") == "add a unicorn"


def test_shapes_are_drawn_inside_the_unit_square() -> None:
    for shape in SHAPES:
        for polygon in shape_outline(shape):
            assert all(-0.05 <= value <= 1.1 for point in polygon for value in point)
    with pytest.raises(ValueError, match="unknown shape 'blob'"):
        shape_outline("blob")
