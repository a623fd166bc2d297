"""Edits find their records where the benchmark says that they do; times are not tested."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import tiers
from bench.harness import Deadline
from bench.tiers_ways import Way, ride
from instgenie.checkpoint import Checkpoint, load_checkpoint
from instgenie.request import EditTimings
from tests.instgenie.edits import a_request, an_editor, pixels

pytestmark = pytest.mark.usefixtures("one_thread")

HOST_BYTES = 64 << 20


@pytest.fixture(scope="module")
def checkpoint(tiny_builtin: Path) -> Checkpoint:
    return load_checkpoint(tiny_builtin, torch.float32, torch.device("cpu"))


def test_every_way_finds_its_records_where_it_says(checkpoint: Checkpoint, tmp_path: Path) -> None:
    rows = tiers.measure(checkpoint, a_request(), tmp_path, Deadline(1e-6), HOST_BYTES)  # checks each edit's tier
    assert [row.tier for row in rows] == [None, None, None, "disk", "host", "host", "device"]
    assert rows[0].of_dense == 1
    by_name = {row.way: row for row in rows}
    assert by_name["cold, recorded first"].record_ms > 0
    assert all(row.record_ms == 0 for row in rows if row.tier is not None)
    assert all(row.ms.n == 1 and row.ms.median > 0 for row in rows)


def test_records_elsewhere_than_expected_are_not_measured() -> None:
    way = Way(name="some", edit=EditTimings, tier="disk")
    with pytest.raises(AssertionError, match="some: the records came from None"):
        tiers._edit(way)


def test_an_edit_that_rides_leaves_records_and_is_the_warm_one(checkpoint: Checkpoint) -> None:
    editor, request = an_editor(checkpoint), a_request()
    assert not editor.holds(request)
    ride(editor, request)
    assert editor.holds(request)
    warm = editor.edit(request)
    assert warm.timings.cache == "hit"
    other = an_editor(checkpoint)
    difference = pixels(warm.picture).astype(int) - pixels(other.edit(request).picture)
    assert np.abs(difference).max() <= 1
    editor.close()
    other.close()


def test_one_run_prints_its_table_and_writes_what_was_measured(
    tiny_builtin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tiers, "embedded_requests", lambda *_: [a_request()])
    monkeypatch.setattr(tiers, "HOST_BYTES", HOST_BYTES)
    given = ["--minutes", "0.001", "--model", str(tiny_builtin), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["tiers.py", *given])
    tiers.main()
    assert "warm, device" in capsys.readouterr().out
    content = json.loads((tmp_path / "tiers.json").read_text())
    assert len(content["results"]) == 7
    assert 0 < content["about"]["mask"] < 0.1
