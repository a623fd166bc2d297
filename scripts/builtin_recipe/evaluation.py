"""What is measured on the embedded model: rows of figures, each with its number of cases `n`.

Edits are cached ones, as the model is served, unless a row says dense. Shares of the cases come with the ends of their
95 % intervals, `_low` and `_high`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Protocol

import numpy as np
from PIL import Image

from builtin_recipe.cases import Case, concepts_of, held_out_cases, removal_cases, sized_cases
from builtin_recipe.concepts import CONCEPTS, HELD_OUT_CAPTIONS, Concept, phrase
from builtin_recipe.measures import changed_share, psnr_in_mask, seam_step
from builtin_recipe.retrieval import Gallery
from builtin_recipe.scenes import Pixels
from builtin_recipe.shares import share_figures
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
# What an edit is ranked among: all things and shapes that the model knows, or the pictured things alone.
KNOWN, PICTURED = "retrieval", "retrieval among the pictured"
REPORT_EVERY = 16  # cases

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
    editor: Edits,
    count: int,
    size: int,
    steps: int,
    pictures: Pictures,
    concepts: Sequence[Concept] = CONCEPTS,
    *,
    headline_alone: bool = False,
    tell: Callable[[str, Row], None] | None = None,
) -> Rows:
    """Retrieval of what was asked for with its controls, and how the edits sit in their pictures.

    The controls are new edits of the same scenes, asked for another thing or for none, ranked for the first thing.

    Args:
        headline_alone: make the edits with unseen captions only, one a case.
        tell: is given the headline so far, now and then.
    """
    things = concepts_of("pictured", concepts)
    known = [*things, *concepts_of("shape", concepts)]
    among = {KNOWN: frozenset(c.label for c in known), PICTURED: frozenset(c.label for c in things)}
    ranks: dict[str, dict[str, list[int]]] = {name: {rivals: [] for rivals in among} for name in RETRIEVALS}
    fidelity, beside, edit_steps, target_steps = [], [], [], []
    for number, case in enumerate(held_out_cases("pictured", count, size, pictures, concepts, leap=True)):
        scene, gallery = case.scene, Gallery(case.scene, known, pictures)

        def edit(prompt: str, *, cached: bool = True, case: Case = case) -> Pixels:
            return edited_pixels(editor, case.request(prompt, cached=cached, steps=steps))

        cached = edit(case.prompt)
        edits = {UNSEEN: cached, BY_LABEL if case.by_label else BY_SYNONYM: cached}
        if not headline_alone:
            edits[SEEN] = edit(case.trained_prompt)
        # A second round of the things takes the other half of them.
        if not headline_alone and (number + number // len(things)) % 2 == 0:
            dense = edit(case.prompt, cached=False)
            another = another_prompt(case, number, concepts)
            edits |= {HALF: cached, DENSE: dense, ANOTHER: edit(another), EMPTY: edit("")}
            fidelity.append(psnr_in_mask(cached, dense, scene.mask))
        found_by = {id(edited): gallery.find(edited) for edited in edits.values()}  # some names share an edit
        for name, edited in edits.items():
            found = found_by[id(edited)]
            for rivals, labels in among.items():
                ranks[name][rivals].append(found.rank(scene.concept.label, labels))
        edit_steps.append(seam_step(cached, scene.mask))
        target_steps.append(seam_step(scene.target, scene.mask))
        uncovered = found_by[id(cached)].uncovered
        if uncovered.sum() >= MIN_UNCOVERED:
            beside.append(psnr_in_mask(cached, scene.background, uncovered))
        if tell and (number + 1) % REPORT_EVERY == 0 and number + 1 < count:
            tell(f"{number + 1} of {count} cases, {UNSEEN}", retrieval_row(ranks[UNSEEN][KNOWN], len(known)))
    rows = {
        f"{rivals}, {name}": retrieval_row(found, len(among[rivals]))
        for name, both in ranks.items()
        for rivals, found in both.items()
        if found
    }
    if fidelity:
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
    return {"shapes": share_figures("colour", colours) | share_figures("shape", outlines) | {"n": len(colours)}}


def nothing_rows(
    editor: Edits, count: int, size: int, steps: int, pictures: Pictures, concepts: Sequence[Concept] = CONCEPTS
) -> Rows:
    """How near edits that ask for nothing come to the true background.

    Of a bare one, beside a thing that stays, and where the masked thing itself is to go, which the records of the
    template have seen.
    """

    def found(case: Case, prompt: str, *, cached: bool = True) -> float:
        edited = edited_pixels(editor, case.request(prompt, cached=cached, steps=steps))
        return psnr_in_mask(edited, case.scene.target, case.scene.mask)

    bare = held_out_cases("nothing", count, size, pictures, concepts)
    with_another = held_out_cases("nothing", count, size, pictures, concepts, others=1)
    removals = removal_cases(count, size, pictures, concepts)
    return {
        "nothing, unseen captions, PSNR in mask": psnr_row([found(case, case.prompt) for case in bare]),
        "nothing, seen captions, PSNR in mask": psnr_row([found(case, case.trained_prompt) for case in bare]),
        "nothing beside a thing, unseen captions, PSNR in mask": psnr_row(
            [found(case, case.prompt) for case in with_another]
        ),
        "removing a thing, unseen captions, PSNR in mask": psnr_row([found(case, case.prompt) for case in removals]),
        "removing a thing, seen captions, PSNR in mask": psnr_row(
            [found(case, case.trained_prompt) for case in removals]
        ),
        "removing a thing, unseen captions, dense edit, PSNR in mask": psnr_row(
            [found(case, case.prompt, cached=False) for case in removals]
        ),
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
            **share_figures("big_changes_more", [b > s for s, b in shares]),
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
    tops = share_figures("top1", [rank < 1 for rank in ranks]) | share_figures("top5", [rank < 5 for rank in ranks])
    return tops | {"candidates": candidates, "n": len(ranks)}


def seam_row(edits: Sequence[float], targets: Sequence[float]) -> Row:
    """Means in levels of 255; their ratio is 1 where edits join their surroundings as well as the true pictures do."""
    edit, target = float(np.mean(edits)), float(np.mean(targets))
    ratio = {"ratio": edit / target} if target > 0 else {}
    return {"edit_levels": edit, "target_levels": target, **ratio, "n": len(edits)}


def psnr_row(found: Sequence[float]) -> Row:
    """Median and worst, in dB."""
    return {"median_db": median(found), "worst_db": min(found), "n": len(found)}
