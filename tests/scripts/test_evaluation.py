"""What the embedded model is measured with: perfect and useless edits get the figures they deserve."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from builtin_recipe.cases import concepts_of, held_out_cases, removal_cases
from builtin_recipe.concepts import COLOURS, CONCEPTS, Concept, all_concepts
from builtin_recipe.evaluation import (
    ANOTHER,
    BY_LABEL,
    BY_SYNONYM,
    DENSE,
    EMPTY,
    HALF,
    KNOWN,
    PICTURED,
    SEEN,
    UNSEEN,
    another_prompt,
    autoencoder_rows,
    edited_pixels,
    nothing_rows,
    pictured_rows,
    seam_row,
    shape_rows,
    size_rows,
)
from builtin_recipe.measures import changed_share, psnr_in_mask, seam_step
from builtin_recipe.pictures import load_atlas
from builtin_recipe.retrieval import Gallery
from builtin_recipe.scenes import draw_shape
from instgenie.autoencoder import PatchCodec
from instgenie.models.patch_autoencoder import PatchAutoencoder
from instgenie.request import EditRequest, EditResult, EditTimings

SIZE, STEPS = 128, 2


class Drawer:
    """Edits by drawing what the prompt names, at the size it says, in the middle of the mask."""

    def __init__(self, heed: Callable[[str], str] = str) -> None:
        self._pictures, self._heed = load_atlas(), heed
        self.requests: list[EditRequest] = []

    def edit(self, request: EditRequest) -> EditResult:
        self.requests.append(request)
        prompt = self._heed(request.prompt)
        named = [(len(n), c) for c in all_concepts() for n in c.names if re.search(rf"\b{n}\b", prompt)]
        concept = max(named, key=lambda pair: pair[0])[1] if named else None
        picture = request.picture
        if concept is not None and concept.kind != "nothing":
            size = 0.4 if re.search(r"\b(small|tiny)\b", prompt) else 0.85
            picture = self._drawn(request, concept, size)
        return EditResult(picture, EditTimings())

    def _drawn(self, request: EditRequest, concept: Concept, size: float) -> Image.Image:
        rows, columns = np.flatnonzero(request.mask.any(1)), np.flatnonzero(request.mask.any(0))
        side = int(size * min(len(rows), len(columns)))
        if concept.kind == "shape":
            thing = draw_shape(concept.code, concept.colour, side, np.random.default_rng(0))
        else:
            thing = self._pictures[concept.code].resize((side, side))
        layer = Image.new("RGBA", request.picture.size)
        layer.paste(thing, (int(columns.mean()) - side // 2, int(rows.mean()) - side // 2))
        drawn = Image.alpha_composite(request.picture.convert("RGBA"), layer).convert("RGB")
        return Image.composite(drawn, request.picture, Image.fromarray(request.mask))


def test_an_editor_that_draws_what_is_asked_for_scores_well() -> None:
    editor = Drawer()
    rows = pictured_rows(editor, 6, SIZE, STEPS, load_atlas())
    for rivals, candidates in ((KNOWN, 64 + 80), (PICTURED, 64)):
        found = {name: rows[f"{rivals}, {name}"] for name in (UNSEEN, BY_LABEL, BY_SYNONYM, SEEN, HALF, DENSE)}
        assert {name: row["n"] for name, row in found.items()} == {
            UNSEEN: 6, BY_LABEL: 2, BY_SYNONYM: 4, SEEN: 6, HALF: 3, DENSE: 3,
        }  # fmt: skip
        assert all(row["top1"] == 1 and row["candidates"] == candidates for row in found.values())
        assert found[UNSEEN]["top1_low"] == pytest.approx(0.61, abs=0.005)
        for control in (ANOTHER, EMPTY):
            assert rows[f"{rivals}, {control}"]["n"] == 3
            assert rows[f"{rivals}, {control}"]["top1"] < 0.5
    assert rows["cached against dense, PSNR in mask"] == {"median_db": 99.0, "worst_db": 99.0, "n": 3}
    assert rows["background beside the thing, PSNR"]["median_db"] > 45
    assert rows["step across the mask's border"]["ratio"] == pytest.approx(1, abs=0.5)  # some things cross the border
    assert sum(not request.cached for request in editor.requests) == 3
    assert {request.steps for request in editor.requests} == {STEPS}


def test_a_shape_in_place_of_the_thing_is_nearest_among_all_that_is_known() -> None:
    rows = pictured_rows(Drawer(heed=lambda _: "blue cross"), 4, SIZE, STEPS, load_atlas(), headline_alone=True)
    known, pictured = (rows[f"{rivals}, {UNSEEN}"] for rivals in (KNOWN, PICTURED))
    assert known["top1"] == 0
    assert known["top5"] <= pictured["top5"]
    gallery_case = held_out_cases("pictured", 1, SIZE, load_atlas())[0]
    found = Gallery(gallery_case.scene, CONCEPTS[:-1], load_atlas()).find(
        edited_pixels(Drawer(), gallery_case.request("blue cross"))
    )
    assert found.label == "blue cross"
    things = [concept.label for concept in concepts_of("pictured")]
    label = min(things, key=found.errors.__getitem__)
    assert (found.rank(label, things), found.rank("blue cross")) == (0, 0)
    assert found.rank(label) > 0


def test_the_headline_alone_takes_one_edit_a_case() -> None:
    editor, told = Drawer(), list[str]()
    things = CONCEPTS[:2]
    rows = pictured_rows(
        editor, 34, SIZE, STEPS, load_atlas(), things, headline_alone=True, tell=lambda name, _: told.append(name)
    )
    assert len(editor.requests) == rows[f"{KNOWN}, {UNSEEN}"]["n"] == 34
    assert f"{KNOWN}, {SEEN}" not in rows
    assert f"{KNOWN}, {HALF}" not in rows
    assert [text.partition(" of ")[0] for text in told] == ["16", "32"]


def test_another_round_has_new_scenes_and_the_controls_of_the_other_things() -> None:
    editor, things = Drawer(), CONCEPTS[:4]
    pictured_rows(editor, 8, SIZE, STEPS, load_atlas(), things)
    dense = [request for request in editor.requests if not request.cached]
    named = [next(c.label for c in things if any(n in request.prompt for n in c.names)) for request in dense]
    assert sorted(named) == sorted(c.label for c in things)
    assert len({request.seed for request in editor.requests}) == 8


def test_a_model_is_measured_on_what_it_can_draw() -> None:
    things = CONCEPTS[:5]
    rows = pictured_rows(Drawer(), 2, SIZE, STEPS, load_atlas(), things)
    row = rows[f"retrieval, {UNSEEN}"]
    assert (row["top1"], row["top5"], row["candidates"], row["n"]) == (1, 1, 5, 2)
    case = held_out_cases("pictured", 1, SIZE, load_atlas(), things)[0]
    assert things[2].label in another_prompt(case, 0, things)


def test_an_editor_that_ignores_its_prompt_does_as_well_on_the_controls() -> None:
    editor = Drawer(heed=lambda _: "a red apple")
    rows = pictured_rows(editor, 4, SIZE, STEPS, load_atlas())
    assert rows[f"retrieval, {HALF}"] == rows[f"retrieval, {ANOTHER}"] == rows[f"retrieval, {EMPTY}"]
    assert rows[f"retrieval, {UNSEEN}"]["top1"] <= 0.5


def test_shapes_are_told_apart_by_colour_and_by_outline() -> None:
    pictures = load_atlas()
    row = shape_rows(Drawer(), 6, SIZE, STEPS, pictures)["shapes"]
    assert (row["colour"], row["shape"], row["n"]) == (1, 1, 6)
    recoloured = Drawer(heed=lambda prompt: re.sub("|".join(COLOURS), "green", prompt))
    row = shape_rows(recoloured, 6, SIZE, STEPS, pictures)["shapes"]
    assert row["colour"] < 0.5
    assert row["shape"] >= 0.8


def test_nothing_is_measured_with_unseen_and_with_seen_captions() -> None:
    unheard = Drawer(heed=lambda prompt: prompt if "background" in prompt or "remove" in prompt else "a red apple")
    rows = nothing_rows(unheard, 6, SIZE, STEPS, load_atlas())
    unseen, seen = (rows[f"nothing, {kind} captions, PSNR in mask"] for kind in ("unseen", "seen"))
    beside = rows["nothing beside a thing, unseen captions, PSNR in mask"]
    assert unseen["n"] == seen["n"] == beside["n"] == 6
    assert beside["median_db"] < 25
    assert unseen["median_db"] < 25 < 45 < seen["median_db"]


class Eraser:
    """Cached edits are right, dense ones leave the picture as it is."""

    def __init__(self) -> None:
        cases = removal_cases(4, SIZE, load_atlas())
        self._without = {
            case.seed: Image.fromarray(np.rint(case.scene.target * 255).astype(np.uint8)) for case in cases
        }

    def edit(self, request: EditRequest) -> EditResult:
        edited = self._without.get(request.seed, request.picture) if request.cached else request.picture
        return EditResult(edited, EditTimings())


def test_a_thing_that_stays_shows_in_the_rows_of_removals() -> None:
    rows = nothing_rows(Eraser(), 4, SIZE, STEPS, load_atlas())
    unseen, seen, dense = (
        rows[f"removing a thing, {kind}, PSNR in mask"]
        for kind in ("unseen captions", "seen captions", "unseen captions, dense edit")
    )
    assert (unseen["n"], dense["n"]) == (4, 4)
    assert min(unseen["worst_db"], seen["worst_db"]) > 45
    assert dense["median_db"] < 25


def test_size_words_show_in_the_share_that_changed() -> None:
    rows = size_rows(Drawer(), 2, SIZE, STEPS, load_atlas())["size words, share of the mask changed"]
    assert rows["small"] < 0.5 * rows["big"]
    assert (rows["big_changes_more"], rows["n"]) == (1, 2)
    deaf = Drawer(heed=lambda prompt: re.sub(r"\b(small|tiny) ", "", prompt))
    rows = size_rows(deaf, 2, SIZE, STEPS, load_atlas())["size words, share of the mask changed"]
    assert rows["big_changes_more"] == 0


def test_the_autoencoder_is_measured_on_composites() -> None:
    autoencoder = PatchAutoencoder(patch_size=8, latent_channels=192)
    cases = held_out_cases("pictured", 8, SIZE, load_atlas(), leap=True)
    pixels = torch.from_numpy(np.stack([case.scene.target for case in cases])).permute(0, 3, 1, 2) * 2 - 1
    autoencoder.fit(pixels)
    rows = autoencoder_rows(PatchCodec(autoencoder), 8, SIZE, load_atlas())
    assert [row["n"] for row in rows.values()] == [8, 8]
    assert rows["autoencoder on composites, PSNR"]["worst_db"] > 40  # as many channels as values: nothing is lost


def test_retrieval_finds_what_was_drawn_and_not_what_was_not() -> None:
    pictures = load_atlas()
    drawn, empty = [], []
    for case in held_out_cases("pictured", 16, 192, pictures, leap=True):
        gallery = Gallery(case.scene, concepts_of("pictured"), pictures)
        found = gallery.find(case.scene.target)
        drawn.append(found.rank(case.scene.concept.label))
        assert (found.label == case.scene.concept.label) == (drawn[-1] == 0)
        empty.append(gallery.find(case.scene.background).rank(case.scene.concept.label))
    assert sum(place == 0 for place in drawn) >= 15
    assert sum(place == 0 for place in empty) <= 3


def test_uncovered_pixels_are_those_of_the_mask_that_the_thing_leaves_free() -> None:
    pictures = load_atlas()
    shares = []
    for case in held_out_cases("pictured", 8, 192, pictures, leap=True):
        scene = case.scene
        uncovered = Gallery(scene, concepts_of("pictured"), pictures).find(scene.target).uncovered
        assert not (uncovered * (1 - scene.mask)).any()
        changed = np.abs(scene.target - scene.background).max(2) > 0.05
        shares.append((changed * uncovered).sum() / max(1, uncovered.sum()))
    assert np.mean(shares) < 0.02


def test_psnr_in_mask_looks_inside_the_mask_only() -> None:
    first = np.zeros((8, 8, 3), np.float32)
    second, mask = first.copy(), np.zeros((8, 8), np.float32)
    mask[2:4, 2:4] = 1
    second[6, 6] = 1
    assert psnr_in_mask(first, second, mask) == 99.0
    second[2:4, 2:4] = 0.1
    assert psnr_in_mask(first, second, mask) == pytest.approx(20, abs=0.01)


def test_changed_share_grows_with_what_is_drawn() -> None:
    background, mask = np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.float32)
    mask[:4] = 1
    shares = []
    for side in range(5):
        edited = background.copy()
        edited[:side, :side, 1] = 0.5
        edited[5:] = 1  # outside the mask
        shares.append(changed_share(edited, background, mask))
    assert shares == [0, 1 / 32, 4 / 32, 9 / 32, 16 / 32]


def test_a_seam_is_the_step_across_the_border_alone() -> None:
    picture, mask = np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.float32)
    mask[2:6, 2:6] = 1
    picture[0, 0] = picture[3:5, 3:5] = 1  # contrasts outside and inside
    assert seam_step(picture, mask) == 0
    picture[2:6, 2:6] += 0.2
    assert seam_step(picture, mask) == pytest.approx(0.2 * 255, rel=1e-5)
    assert seam_step(picture, np.ones_like(mask)) == 0
    assert "ratio" not in seam_row([1.0], [0.0])
    assert seam_row([1.0, 2.0], [2.0, 4.0])["ratio"] == 0.5
