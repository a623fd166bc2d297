"""Held-out cases: what is asked for, under which names, with which words."""

from __future__ import annotations

import numpy as np
import pytest

from builtin_recipe.cases import concepts_of, held_out_cases, removal_cases, sized_cases, spread
from builtin_recipe.concepts import HELD_OUT_NOTHING, NOTHING, SIZES, every_caption
from builtin_recipe.pictures import load_atlas
from builtin_recipe.scenes import background

PICTURED = len(concepts_of("pictured"))


@pytest.mark.parametrize("count", [1, 2, 3, 10, 24, 64, 80])
def test_a_spread_round_meets_every_place_once(count: int) -> None:
    assert {i * spread(count) % count for i in range(count)} == set(range(count))


@pytest.mark.parametrize("leap", [False, True])
def test_cases_go_round_all_things_and_all_their_names(leap: bool) -> None:
    cases = held_out_cases("pictured", 3 * PICTURED, 64, load_atlas(), leap=leap)
    first_round = cases[:PICTURED]
    assert len({case.scene.concept.label for case in first_round}) == PICTURED
    assert 0.3 < np.mean([case.by_label for case in first_round]) < 0.4
    names = {name for concept in concepts_of("pictured") for name in concept.names}
    assert {case.name for case in cases} == names


def test_prompts_are_unseen_and_their_counterparts_seen() -> None:
    for kind in ("pictured", "shape"):
        for case in held_out_cases(kind, 12, 64, load_atlas(), leap=True):
            seen = every_caption(case.scene.concept)
            assert case.name in case.prompt
            assert case.prompt not in seen
            assert case.name in case.trained_prompt
            assert case.trained_prompt in seen
            assert not any(f"{word} " in case.prompt for word in SIZES)


def test_nothing_is_asked_for_in_unseen_words_and_in_all_seen_ones() -> None:
    cases = held_out_cases("nothing", 12, 64, load_atlas())
    assert {case.prompt for case in cases} == set(HELD_OUT_NOTHING)
    assert {case.trained_prompt for case in cases} == set(NOTHING)


def test_a_case_is_the_same_every_time_and_no_other_case() -> None:
    pictures = load_atlas()
    first, again = (held_out_cases("pictured", 3, 64, pictures)[2] for _ in "ab")
    assert np.array_equal(first.scene.target, again.scene.target)
    assert (first.prompt, first.seed) == (again.prompt, again.seed)
    others = [*held_out_cases("shape", 3, 64, pictures), *(pair[0] for pair in sized_cases(3, 64, pictures))]
    assert first.seed not in {case.seed for case in others}


def test_cases_of_nothing_are_bare_unless_a_thing_is_asked_for() -> None:
    pictures = load_atlas()
    bare, beside = (held_out_cases("nothing", 8, 192, pictures, others=others) for others in (None, 1))
    for one, other in zip(bare, beside, strict=True):
        assert (one.prompt, one.seed) == (other.prompt, other.seed)
        assert np.array_equal(one.scene.mask, other.scene.mask)
        inside = one.scene.mask > 0
        assert np.array_equal(one.scene.background[inside], other.scene.background[inside])
        assert not np.array_equal(one.scene.background, other.scene.background)
    plain = background(192, np.random.default_rng(bare[0].seed))
    assert np.array_equal(bare[0].scene.background, plain)


def test_a_removal_is_of_the_thing_that_is_masked() -> None:
    for case in removal_cases(8, 128, load_atlas()):
        differs = (case.scene.background != case.scene.target).any(-1)
        assert differs.sum() > 200
        assert (case.scene.mask[differs] == 1).all()
        assert case.prompt in HELD_OUT_NOTHING
        assert case.trained_prompt in NOTHING
        assert np.abs(np.asarray(case.request().picture, np.float32) / 255 - case.scene.background).max() < 0.01


def test_sized_cases_ask_for_small_and_big_in_one_scene() -> None:
    words = set()
    for small, big in sized_cases(2, 96, load_atlas()):
        assert small.scene is big.scene
        assert small.seed == big.seed
        pair = [word for case in (small, big) for word in SIZES if f"{word} {case.name}" in case.prompt]
        assert len(pair) == 2
        words |= set(pair)
    assert words == set(SIZES)


def test_a_request_edits_the_scene_without_its_object() -> None:
    case = held_out_cases("pictured", 1, 64, load_atlas())[0]
    request = case.request(cached=False, steps=3)
    assert (request.prompt, request.seed, request.cached, request.steps) == (case.prompt, case.seed, False, 3)
    assert np.array_equal(request.mask, case.scene.mask > 0)
    assert np.abs(np.asarray(request.picture, float) / 255 - case.scene.background).max() < 0.01
    assert case.request("").prompt == ""
