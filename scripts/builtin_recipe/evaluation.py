"""What is measured on the embedded model: rows of figures, each with its number of cases `n`.

Edits are cached ones, as the model is served, unless a row says dense.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Protocol

import numpy as np
from PIL import Image

from builtin_recipe.cases import Case, concepts_of, held_out_cases, sized_cases
from builtin_recipe.concepts import CONCEPTS, HELD_OUT_CAPTIONS, Concept, phrase
from builtin_recipe.measures import changed_share, psnr_in_mask, seam_step
from builtin_recipe.retrieval import Gallery
from builtin_recipe.scenes import Pixels
from instgenie.autoencoder import LatentCodec
from instgenie.canvas import to_picture, to_tensor
from instgenie.request import EditRequest, EditResult

Row = dict[str, float]
Rows = dict[str, Row]
Pictures = Mapping[str, Image.Image]

UNSEEN, BY_LABEL, BY_SYNONYM = "unseen captions", "unseen captions, by label", "unseen captions, by synonym"
SEEN = "seen captions"
# On every second case; the first of them is what the others are to be compared with.
HALF, DENSE = "half: unseen captions", "half: unseen captions, dense edit"
ANOTHER, EMPTY = "half: control, another thing's prompt", "half: control, no prompt"
RETRIEVALS = (UNSEEN, BY_LABEL, BY_SYNONYM, SEEN, HALF, DENSE, ANOTHER, EMPTY)

# Fewer pixels beside a thing than this say nothing of the background.
MIN_UNCOVERED = 64


class Edits(Protocol):
    """What makes the edits: an `Editor`."""

    def edit(self, request: EditRequest) -> EditResult:
        """Run the edit."""
        ...


def edited_pixels(editor: Edits, request: EditRequest) -> Pixels:
    """[S, S, 3] in 0..1."""
    return np.asarray(editor.edit(request).picture, np.float32) / np.float32(255)


def another_prompt(case: Case, number: int, concepts: Sequence[Concept] = CONCEPTS) -> str:
    """A held-out caption of another pictured concept: the one half the list away."""
    things = concepts_of("pictured", concepts)
    other = things[(things.index(case.scene.concept) + len(things) // 2) % len(things)]
    return phrase(HELD_OUT_CAPTIONS[number % len(HELD_OUT_CAPTIONS)], other.label)


def pictured_rows(
    editor: Edits, count: int, size: int, steps: int, pictures: Pictures, concepts: Sequence[Concept] = CONCEPTS
) -> Rows:
    """Retrieval of what was asked for with its controls, and how the edits sit in their pictures.

    The controls are new edits of the same scenes, asked for another thing or for none, ranked for the first thing.
    """
    things = concepts_of("pictured", concepts)
    ranks: dict[str, list[int]] = {name: [] for name in RETRIEVALS}
    fidelity, beside, edit_steps, target_steps = [], [], [], []
    for number, case in enumerate(held_out_cases("pictured", count, size, pictures, concepts, leap=True)):
        scene, gallery = case.scene, Gallery(case.scene, things, pictures)

        def edit(prompt: str, *, cached: bool = True, case: Case = case) -> Pixels:
            return edited_pixels(editor, case.request(prompt, cached=cached, steps=steps))

        cached = edit(case.prompt)
        edits = {UNSEEN: cached, BY_LABEL if case.by_label else BY_SYNONYM: cached, SEEN: edit(case.trained_prompt)}
        if number % 2 == 0:
            dense = edit(case.prompt, cached=False)
            another = another_prompt(case, number, concepts)
            edits |= {HALF: cached, DENSE: dense, ANOTHER: edit(another), EMPTY: edit("")}
            fidelity.append(psnr_in_mask(cached, dense, scene.mask))
        for name, edited in edits.items():
            ranks[name].append(gallery.find(edited).rank(scene.concept.label))
        edit_steps.append(seam_step(cached, scene.mask))
        target_steps.append(seam_step(scene.target, scene.mask))
        uncovered = gallery.find(cached).uncovered
        if uncovered.sum() >= MIN_UNCOVERED:
            beside.append(psnr_in_mask(cached, scene.background, uncovered))
    rows = {f"retrieval, {name}": retrieval_row(found, len(things)) for name, found in ranks.items() if found}
    rows["cached against dense, PSNR in mask"] = psnr_row(fidelity)
    if beside:
        rows["background beside the thing, PSNR"] = psnr_row(beside)
    rows["step across the mask's border"] = seam_row(edit_steps, target_steps)
    return rows


def shape_rows(
    editor: Edits, count: int, size: int, steps: int, pictures: Pictures, concepts: Sequence[Concept] = CONCEPTS
) -> Rows:
    """Whether coloured shapes have the colour and the shape that was asked for."""
    shapes = concepts_of("shape", concepts)
    by_label = {concept.label: concept for concept in shapes}
    colours, outlines = [], []
    for case in held_out_cases("shape", count, size, pictures, concepts, leap=True):
        edited = edited_pixels(editor, case.request(steps=steps))
        nearest = by_label[Gallery(case.scene, shapes, pictures).find(edited).label]
        colours.append(nearest.colour == case.scene.concept.colour)
        outlines.append(nearest.code == case.scene.concept.code)
    return {"shapes": {"colour": float(np.mean(colours)), "shape": float(np.mean(outlines)), "n": len(colours)}}


def nothing_rows(
    editor: Edits, count: int, size: int, steps: int, pictures: Pictures, concepts: Sequence[Concept] = CONCEPTS
) -> Rows:
    """How near edits that ask for nothing come to the true background."""
    unseen: list[float] = []
    seen: list[float] = []
    for case in held_out_cases("nothing", count, size, pictures, concepts):
        for prompt, found in ((case.prompt, unseen), (case.trained_prompt, seen)):
            edited = edited_pixels(editor, case.request(prompt, steps=steps))
            found.append(psnr_in_mask(edited, case.scene.background, case.scene.mask))
    return {
        "nothing, unseen captions, PSNR in mask": psnr_row(unseen),
        "nothing, seen captions, PSNR in mask": psnr_row(seen),
    }


def size_rows(
    editor: Edits, count: int, size: int, steps: int, pictures: Pictures, concepts: Sequence[Concept] = CONCEPTS
) -> Rows:
    """Whether a big thing changes more of the same mask than a small one."""
    shares = []
    for small, big in sized_cases(count, size, pictures, concepts):
        edits = [edited_pixels(editor, case.request(steps=steps)) for case in (small, big)]
        shares.append([changed_share(edited, small.scene.background, small.scene.mask) for edited in edits])
    smaller, bigger = zip(*shares, strict=True)
    return {
        "size words, share of the mask changed": {
            "small": median(smaller),
            "big": median(bigger),
            "big_changes_more": float(np.mean([b > s for s, b in shares])),
            "n": len(shares),
        }
    }


def autoencoder_rows(
    codec: LatentCodec, count: int, size: int, pictures: Pictures, concepts: Sequence[Concept] = CONCEPTS
) -> Rows:
    """What is lost by encoding and decoding held-out composites: no edit can be better."""
    whole, masked = [], []
    for case in held_out_cases("pictured", count, size, pictures, concepts, leap=True):
        target = case.scene.target
        pixels = to_tensor(Image.fromarray(np.rint(target * 255).astype(np.uint8)))
        decoded = to_picture(codec.decode(codec.encode(pixels), (size // codec.patch, size // codec.patch)).cpu())
        again = np.asarray(decoded, np.float32) / np.float32(255)
        whole.append(psnr_in_mask(target, again, np.ones_like(case.scene.mask)))
        masked.append(psnr_in_mask(target, again, case.scene.mask))
    return {
        "autoencoder on composites, PSNR": psnr_row(whole),
        "autoencoder on composites, PSNR in mask": psnr_row(masked),
    }


def retrieval_row(ranks: Sequence[int], candidates: int) -> Row:
    """Share of the cases whose label is the nearest of all candidates, and among the nearest five."""
    found = np.array(ranks)
    top1, top5 = float((found < 1).mean()), float((found < 5).mean())
    return {"top1": top1, "top5": top5, "candidates": candidates, "n": len(found)}


def seam_row(edits: Sequence[float], targets: Sequence[float]) -> Row:
    """Means in levels of 255; their ratio is 1 where edits join their surroundings as well as the true pictures do."""
    edit, target = float(np.mean(edits)), float(np.mean(targets))
    ratio = {"ratio": edit / target} if target > 0 else {}
    return {"edit_levels": edit, "target_levels": target, **ratio, "n": len(edits)}


def psnr_row(found: Sequence[float]) -> Row:
    """Median and worst, in dB."""
    return {"median_db": median(found), "worst_db": min(found), "n": len(found)}
