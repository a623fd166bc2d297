"""The benchmarks' own arithmetic and pictures; their figures are not tested."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from bench import contact_sheet
from bench.contact_sheet import CAPTION, HEADINGS, TILE, arrange, shown_cases, tile
from bench.engine import measure, square_positions
from bench.quickstart import phases_in_fresh_process
from builtin_recipe.cases import concepts_of
from builtin_recipe.pictures import load_atlas
from instgenie.request import EditRequest, EditResult, EditTimings


class Painter:
    """Paints the mask: dense edits red, cached ones green."""

    def edit(self, request: EditRequest) -> EditResult:
        colour = "lime" if request.cached else "red"
        picture = request.picture.copy()
        picture.paste(colour, mask=Image.fromarray(request.mask))
        return EditResult(picture, EditTimings())


def test_the_contact_sheet_shows_distinct_things_from_all_over_the_list() -> None:
    cases = shown_cases(36, 6, 96, load_atlas())
    assert Counter(case.scene.concept.kind for case in cases) == {"pictured": 38, "shape": 6, "nothing": 4}
    labels = [concept.label for concept in concepts_of("pictured")]
    shown = sorted(labels.index(case.scene.concept.label) for case in cases[:36])
    assert len(set(shown)) == 36
    assert max(np.diff(shown)) <= 4  # no stretch of the list is left out
    assert len({case.scene.concept.colour for case in cases if case.scene.concept.kind == "shape"}) > 2


def test_more_things_than_there_are_pictures_of_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["contact_sheet.py", "sheet.png", "--pictured", "65", "--device", "cpu"])
    with pytest.raises(SystemExit, match="2"):
        contact_sheet.main()
    assert "--pictured 65: 0 to 64, the things that there are pictures of" in capsys.readouterr().err


def test_a_contact_sheet_has_every_tile_in_its_place() -> None:
    cases = shown_cases(2, 1, 96, load_atlas())
    tiles = [tile(Painter(), case) for case in cases]
    sheet = np.asarray(arrange(tiles, columns=3))
    assert len(tiles) == 9
    assert sheet.shape[0] == 3 * tiles[0].height + CAPTION
    for i, one in enumerate(tiles):
        top, left = i // 3 * one.height + CAPTION, i % 3 * (one.width + 10)
        assert np.array_equal(sheet[top : top + one.height, left : left + one.width], np.asarray(one))
    strip = np.asarray(tiles[0]).astype(int)[:TILE]
    masked, dense, cached = (strip[:, i * (TILE + 2) :][:, :TILE] for i in range(len(HEADINGS)))
    for picture, colour in ((masked, (255, 0, 255)), (dense, (255, 0, 0)), (cached, (0, 255, 0))):
        assert (np.abs(picture - colour).max(2) < 8).any()


def test_a_square_covers_about_its_share() -> None:
    for share in (0.05, 0.2, 0.5):
        positions = square_positions(32, share)
        assert len(positions) / 1024 == pytest.approx(share, rel=0.15)
        assert len(torch.unique(positions)) == len(positions)


def test_speed_ups_are_taken_against_the_diffusers_forward() -> None:
    found = measure({"diffusers dense": lambda: sum(range(200_000)), "dense": lambda: None}, rounds=3)
    assert found["diffusers dense"]["speedup"] == 1
    assert found["dense"]["speedup"] > 1
    assert found["diffusers dense"]["ms"] > 0


@pytest.mark.slow
def test_the_quickstart_is_timed_phase_by_phase() -> None:
    found = phases_in_fresh_process()
    assert found["import_ms"] > found["read_pictures_ms"] > 0
    for edit in ("first", "recorded", "dense"):
        parts = sum(found[f"{edit}_edit_{part}_ms"] for part in ("encode", "record", "denoise", "decode"))
        assert 0 < parts <= found[f"{edit}_edit_ms"]
    assert found["first_edit_record_ms"] > 0
    assert found["recorded_edit_record_ms"] == found["dense_edit_record_ms"] == 0
