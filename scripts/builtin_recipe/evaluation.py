"""Held-out cases for the embedded model and what is measured on them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from builtin_recipe.concepts import HELD_OUT_CAPTIONS, Concept, all_concepts, phrase
from builtin_recipe.retrieval import distances, rank
from builtin_recipe.scenes import Pixels, Scene, make_scene
from instgenie.editor import Editor
from instgenie.request import EditRequest

# Training draws its scenes from small seeds; these start far from them.
HELD_OUT_SEED = 10_000_000


@dataclass(frozen=True, slots=True)
class Case:
    """A scene whose mask is to be filled, with a caption form that training never used."""

    scene: Scene
    prompt: str
    seed: int

    def request(self, prompt: str | None = None, **settings: object) -> EditRequest:
        """The edit of this case, on the scene without the object, with another prompt if one is given."""
        picture = Image.fromarray(np.rint(self.scene.background * 255).astype(np.uint8))
        text = self.prompt if prompt is None else prompt
        return EditRequest(picture=picture, mask=self.scene.mask > 0, prompt=text, seed=self.seed, **settings)  # type: ignore[arg-type]


def held_out_case(concept: Concept, number: int, size: int, pictures: Mapping[str, Image.Image]) -> Case:
    """Case `number` of a concept; the same every time."""
    seed = HELD_OUT_SEED + number
    words = random.Random(seed)
    scene = make_scene(concept, size, pictures, np.random.default_rng(seed), words)
    if concept.kind == "nothing":
        return Case(scene, scene.caption, seed)
    return Case(scene, phrase(words.choice(HELD_OUT_CAPTIONS), concept.names[0]), seed)


def held_out_cases(kind: str, count: int, size: int, pictures: Mapping[str, Image.Image]) -> list[Case]:
    """`count` cases that go round the concepts of a kind."""
    concepts = [c for c in all_concepts() if c.kind == kind]
    stride = 7 if kind == "shape" else 1  # shapes are listed colour by colour: mix both
    return [held_out_case(concepts[i * stride % len(concepts)], i, size, pictures) for i in range(count)]


def edited_pixels(editor: Editor, request: EditRequest) -> Pixels:
    """[S, S, 3] in 0..1."""
    return np.asarray(editor.edit(request).picture, np.float32) / np.float32(255)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Share of cases whose concept is the nearest, or among the five nearest, of `candidates`."""

    top1: float
    top5: float
    cases: int
    candidates: int


def retrieval(ranks: Sequence[int], candidates: int) -> Retrieval:
    """Summary of the ranks that `ranked` gave."""
    found = np.array(ranks)
    return Retrieval(float((found < 1).mean()), float((found < 5).mean()), len(found), candidates)


def ranked(edited: Pixels, case: Case, label: str, pictures: Mapping[str, Image.Image]) -> int:
    """Rank of the label among all pictured concepts for this edit."""
    pictured = [c for c in all_concepts() if c.kind == "pictured"]
    return rank(label, distances(edited, case.scene, pictured, pictures))


def nearest_shape(edited: Pixels, case: Case) -> Concept:
    """The coloured shape that the edit looks most like."""
    shapes = [c for c in all_concepts() if c.kind == "shape"]
    found = distances(edited, case.scene, shapes, {})
    return min(shapes, key=lambda c: found[c.label])


def psnr_in_mask(first: Pixels, second: Pixels, mask: Pixels) -> float:
    """Peak signal-to-noise ratio inside the mask in dB; pictures in 0..1; 99 where they are equal."""
    error = float((((first - second) ** 2).mean(2) * mask).sum() / mask.sum())
    return 99.0 if error == 0 else min(99.0, -10 * float(np.log10(error)))
