"""Peers make the edits that they are said to make; times are not tested."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench import peers, peers_models
from bench.harness import Deadline
from bench.peers_caches import batched_caches, cached, calibrated_ratios, sequential_caches
from bench.peers_ours import MaskedAlone, OurEdits
from bench.peers_pipeline import DiffusersEdits
from bench.peers_systems import REFERENCE
from instgenie.checkpoint import Checkpoint, load_checkpoint
from instgenie.editor import Editor
from instgenie.request import EditRequest
from tests.instgenie.edits import a_request, an_editor, pixels, random_picture
from tests.scripts.small_flux import small_flux

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 8


@pytest.fixture(scope="module")
def checkpoint(tiny_builtin: Path) -> Checkpoint:
    return load_checkpoint(tiny_builtin, torch.float32, torch.device("cpu"))


def requests(count: int) -> list[EditRequest]:
    prompts = ("a red apple", "a green pear", "a boat", "a house")
    return [a_request(random_picture(seed=n), prompt=prompts[n % 4], seed=n, steps=STEPS) for n in range(count)]


def off(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of two pictures, in levels."""
    return int(np.abs(pixels(one).astype(int) - pixels(other)).max())


@pytest.fixture
def editor(checkpoint: Checkpoint) -> Iterator[Editor]:
    made = an_editor(checkpoint)
    yield made
    made.close()


@pytest.mark.parametrize("together", [False, True])
def test_the_pipeline_of_diffusers_makes_our_dense_edits_alone_and_in_batches(
    checkpoint: Checkpoint, editor: Editor, together: bool
) -> None:
    edits = DiffusersEdits(checkpoint, together=together)
    asked = requests(3)
    dense = [editor.dense(request).picture for request in asked]
    pictures = edits.edit(asked)
    assert max(map(off, pictures, dense)) <= 1
    assert off(edits.edit(asked[1:2])[0], dense[1]) <= 1
    assert off(dense[0], asked[0].picture) > 50  # the edit does something
    assert edits.attended() == 1
    edits.close()


def test_without_keeping_the_context_the_edit_is_another(checkpoint: Checkpoint, editor: Editor) -> None:
    (request,) = requests(1)
    edits = DiffusersEdits(checkpoint, keeps=False)
    assert off(edits.edit([request])[0], editor.dense(request).picture) > 1
    edits.close()


def test_medium_edits_run_through_the_same_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_models, "medium_flux", small_flux)
    medium = peers_models.medium_checkpoint(torch.float32, side=8, steps=2)
    (request,) = peers_models.medium_requests(1, side=8)
    edits, editor = DiffusersEdits(medium), an_editor(medium)
    assert off(edits.edit([request])[0], editor.dense(request).picture) <= 1
    edits.close()
    editor.close()


def test_every_step_cache_leaves_something_out_and_nothing_behind(checkpoint: Checkpoint) -> None:
    (request,) = requests(1)
    transformer = checkpoint.forward.transformer
    alone, together = DiffusersEdits(checkpoint), DiffusersEdits(checkpoint, together=True)
    before = alone.edit([request])[0]
    ratios = calibrated_ratios(transformer, STEPS, lambda: alone.edit([request]))
    assert len(ratios) == STEPS
    assert all(ratio > 0 for ratio in ratios)
    named = [(alone, *item) for item in sequential_caches(ratios, STEPS).items()]
    named += [(together, *item) for item in batched_caches(lambda: together.transformer.timestep).items()]
    attended = {}
    for edits, name, config in named:
        with cached(transformer, config):
            edits.edit([request])
        attended[name] = edits.attended()
        with cached(transformer, config):  # nothing of the last edit is left
            edits.edit([request])
        assert edits.attended() == attended[name]
    # Thresholds are for trained models: those caches may leave nothing out here.
    chosen = {name: share for name, share in attended.items() if "1 step in" in name}
    assert len(chosen) >= 5
    assert all(0 < share < 1 for share in chosen.values())
    assert attended["TaylorSeer, 1 step in 5"] < attended["TaylorSeer, 1 step in 2"]
    assert off(alone.edit([request])[0], before) == 0
    alone.close()
    together.close()


def test_ours_are_the_product_s_edits(checkpoint: Checkpoint, editor: Editor) -> None:
    asked = requests(2)
    ours = OurEdits(editor, halo=2, refreshes=0)
    ours.record(asked)
    other = an_editor(checkpoint)
    for request, picture in zip(asked, ours.edit(asked), strict=True):
        alone = other.edit(
            a_request(request.picture, prompt=request.prompt, seed=request.seed, steps=STEPS, halo=2, refreshes=0)
        )
        assert off(picture, alone.picture) <= 1
    other.close()


def test_edits_without_their_records_are_not_measured(editor: Editor) -> None:
    with pytest.raises(AssertionError):
        OurEdits(editor).edit(requests(1))


def test_the_strawman_sees_nothing_beside_the_mask(checkpoint: Checkpoint) -> None:
    (request,) = requests(1)
    picture = MaskedAlone(checkpoint).edit([request])[0]
    assert (pixels(picture)[~request.mask] == pixels(request.picture)[~request.mask]).all()
    assert off(picture, request.picture) > 50
    # The fill conditioning of masked tokens has no picture; what is around them is another one here.
    canvas = pixels(random_picture(seed=5)).copy()
    rows, columns = request.mask.nonzero()
    touched = (
        slice(rows.min() // 8 * 8, -(-(rows.max() + 1) // 8) * 8),
        slice(columns.min() // 8 * 8, -(-(columns.max() + 1) // 8) * 8),
    )
    canvas[touched] = pixels(request.picture)[touched]
    elsewhere = a_request(
        Image.fromarray(canvas), mask=request.mask, prompt=request.prompt, seed=request.seed, steps=STEPS
    )
    other = MaskedAlone(checkpoint).edit([elsewhere])[0]
    assert (pixels(other)[request.mask] == pixels(picture)[request.mask]).all()


def test_all_systems_are_measured_on_the_same_edits(checkpoint: Checkpoint) -> None:
    dense = DiffusersEdits(checkpoint)
    told: list[str] = []
    asked = requests(2)
    rows = peers.measure(
        checkpoint, "tiny", asked, Deadline(1e-6), exact=lambda one: dense.edit([one])[0], tell=told.append
    )
    dense.close()
    by_name = {row.system: row for row in rows}
    reference = by_name[REFERENCE]
    assert (reference.speedup, reference.psnr_db) == (1, 99)
    assert by_name["diffusers, static batches of 4"].batch == 4
    assert by_name["ours, dense"].psnr_db is not None
    assert by_name["ours, dense"].psnr_db > 60
    assert by_name["ours"].computed is None
    assert {row.group for row in rows} == {"diffusers", "step cache", "strawman", "ours"}
    assert all(row.seconds.n == 1 and row.seconds.median > 0 for row in rows)
    assert len(told) == 1


def test_one_run_writes_both_models_and_the_picture(
    tiny_builtin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers_models, "medium_flux", small_flux)
    small = peers_models.medium_checkpoint(torch.float32, side=8, steps=2)
    monkeypatch.setattr(peers, "medium_checkpoint", lambda *_, **__: small)
    monkeypatch.setattr(peers, "medium_requests", lambda _: peers_models.medium_requests(2, side=8, steps=2))
    monkeypatch.setattr(peers, "embedded_requests", lambda *_: requests(2))
    out = tmp_path / "out"
    given = ["--minutes", "0.001", "--steps", str(STEPS), "--model", str(tiny_builtin), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["peers.py", *given])
    peers.main()
    printed = capsys.readouterr().out
    assert f"embedded model, {STEPS} steps an edit" in printed
    content = json.loads((out / "peers.json").read_text())
    medium = [row for row in content["results"] if row["model"] == "medium"]
    assert [row["system"] for row in medium] == list(peers.MEDIUM_ROWS)
    assert all(row["psnr_db"] is None for row in medium)
    assert (out / "peers.svg").read_text().count(REFERENCE) == 1
