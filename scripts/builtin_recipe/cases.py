"""Held-out cases for the embedded model: scenes that training did not see, with captions that it did not use."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd

import numpy as np
from PIL import Image

from builtin_recipe.concepts import CAPTIONS, CONCEPTS, HELD_OUT_CAPTIONS, HELD_OUT_NOTHING, Concept, phrase
from builtin_recipe.scenes import Scene, make_scene
from instgenie.request import EditRequest

# Training draws its scenes from small seeds; these start far from them, and from each other.
HELD_OUT_SEEDS = {"pictured": 10_000_000, "shape": 11_000_000, "nothing": 12_000_000}
SIZED_CASES = 500_000  # number of the first case that has a size word
SIZE_PAIRS = (("small", "big"), ("tiny", "large"))


@dataclass(frozen=True, slots=True)
class Case:
    """A scene whose mask is to be filled: its `background` is edited, its `target` is what to come near to.

    Attributes:
        name: what the prompts call the concept: its label, or one of the synonyms that training used too.
        prompt: a caption form (for "nothing", a whole caption) that training never used.
        trained_prompt: one that it used, with the same name.
    """

    scene: Scene
    name: str
    prompt: str
    trained_prompt: str
    seed: int

    @property
    def by_label(self) -> bool:
        """Whether the concept is called by its label."""
        return self.name == self.scene.concept.label

    def request(self, prompt: str | None = None, *, cached: bool = True, steps: int | None = None) -> EditRequest:
        """The edit of this case, with another prompt if one is given."""
        return EditRequest(
            picture=Image.fromarray(np.rint(self.scene.background * 255).astype(np.uint8)),
            mask=self.scene.mask > 0,
            prompt=self.prompt if prompt is None else prompt,
            seed=self.seed,
            cached=cached,
            steps=steps,
        )


def concepts_of(kind: str, concepts: Sequence[Concept] = CONCEPTS) -> list[Concept]:
    """The concepts of a kind, in their fixed order."""
    return [concept for concept in concepts if concept.kind == kind]


def spread(count: int) -> int:
    """A stride that goes round `count` places in leaps, and meets every one before it meets one again."""
    return next(stride for stride in range(max(1, round(0.618 * count)), count + 2) if gcd(stride, count) == 1)


def held_out_case(
    concept: Concept,
    name: str,
    number: int,
    size: int,
    pictures: Mapping[str, Image.Image],
    size_word: str = "",
    others: int | None = None,
) -> Case:
    """Case `number` of a concept under that name; the same every time.

    Args:
        others: objects to leave alone; None draws their number, but has none beside nothing.
    """
    seed = HELD_OUT_SEEDS[concept.kind] + number
    words = random.Random(seed)
    if others is None and concept.kind == "nothing":
        others = 0
    scene = make_scene(concept, size, pictures, np.random.default_rng(seed), words, size_word=size_word, others=others)
    if concept.kind == "nothing":
        return Case(scene, name, HELD_OUT_NOTHING[number % len(HELD_OUT_NOTHING)], name, seed)
    called = f"{size_word} {name}".strip()
    return Case(
        scene, name, phrase(words.choice(HELD_OUT_CAPTIONS), called), phrase(words.choice(CAPTIONS), called), seed
    )


def held_out_cases(
    kind: str,
    count: int,
    size: int,
    pictures: Mapping[str, Image.Image],
    concepts: Sequence[Concept] = CONCEPTS,
    *,
    leap: bool = False,
    others: int | None = None,
) -> list[Case]:
    """`count` cases that go round the concepts of a kind, and round the names of each.

    Args:
        concepts: what the model can draw.
        leap: take concepts from all over the list, not its first ones; no concept comes twice before all have come.
        others: as in `held_out_case`.
    """
    found = concepts_of(kind, concepts)
    stride = spread(len(found)) if leap else 1
    cases = []
    for number in range(count):
        concept = found[number * stride % len(found)]
        turn = number % len(found) + number // len(found)
        name = concept.names[turn % len(concept.names)]
        cases.append(held_out_case(concept, name, number, size, pictures, others=others))
    return cases


def removal_cases(
    count: int, size: int, pictures: Mapping[str, Image.Image], concepts: Sequence[Concept] = CONCEPTS
) -> list[Case]:
    """`count` scenes with a pictured thing, nothing else, under the mask, which are asked to be without it.

    Their `background`, the picture that is edited, has the thing; their `target` has not.
    """
    cases = []
    for number, case in enumerate(held_out_cases("pictured", count, size, pictures, concepts, leap=True, others=0)):
        scene = case.scene
        covered = (scene.target != scene.background).any(-1)
        mask = np.maximum(scene.mask, covered.astype(np.float32))
        nothing = concepts_of("nothing", concepts)[0]
        name = nothing.names[number % len(nothing.names)]
        prompt = HELD_OUT_NOTHING[number % len(HELD_OUT_NOTHING)]
        without = Scene(scene.background, scene.target, mask, nothing, name)
        cases.append(Case(without, name, prompt, name, case.seed))
    return cases


def sized_cases(
    count: int, size: int, pictures: Mapping[str, Image.Image], concepts: Sequence[Concept] = CONCEPTS
) -> list[tuple[Case, Case]]:
    """`count` scenes of pictured things, each with a case that asks for a small one and a case for a big one."""
    found = concepts_of("pictured", concepts)
    pairs = []
    for i in range(count):
        concept = found[i * spread(len(found)) % len(found)]
        small, big = (
            held_out_case(concept, concept.label, SIZED_CASES + i, size, pictures, word)
            for word in SIZE_PAIRS[i % len(SIZE_PAIRS)]
        )
        pairs.append((small, replace(big, scene=small.scene)))
    return pairs
