"""The benchmark of codecs, on a tiny model: its books are right; its figures of pictures are not tested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from bench.codecs import CodecFigures, main, measure, table
from instgenie.checkpoint import load_checkpoint
from instgenie.codecs import CodecName
from instgenie.request import EditRequest

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS, STEPS, BLOCKS, HEADS, CHANNELS = 64, 4, 2, 2, 16  # of an edit of 64x64 pixels with the tiny model


def test_codecs_are_measured_against_raw_records_and_dense_edits(tiny_builtin: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    mask = np.zeros((64, 64), bool)
    mask[16:40, 16:40] = True
    checkpoint = load_checkpoint(tiny_builtin, torch.float32, torch.device("cpu"))
    figures = measure(checkpoint, [EditRequest(picture=picture, mask=mask, prompt=p) for p in ("a pear", "a car")])
    rows = STEPS * BLOCKS * 2 * TOKENS * HEADS
    assert {codec: row.template_bytes for codec, row in figures.items()} == {
        "raw": rows * CHANNELS * 4,
        "int8": rows * (CHANNELS + 4),
        "fp8": rows * (CHANNELS + 4),
    }
    assert figures["raw"].to_raw_db == 99
    assert figures["raw"].to_dense_db < 99
    for row in figures.values():
        assert row.worst_to_raw_db <= row.to_raw_db
        assert row.decode_ms > 0
    assert 99 > figures["int8"].to_raw_db > figures["fp8"].to_raw_db > 20


def test_table_has_a_row_of_each_codec() -> None:
    figures: dict[CodecName, CodecFigures] = {
        "raw": CodecFigures(8e6, 1.0, 99.0, 99.0, 30.0),
        "int8": CodecFigures(2e6, 3.0, 41.26, 40.0, 29.0),
    }
    console = Console(width=120)
    with console.capture() as printed:
        console.print(table(figures, "a title"))
    raw, int8 = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.get().splitlines() if "│" in line]
    assert raw == ["raw", "8.0", "100%", "1.00", "", "", "30.0"]
    assert int8 == ["int8", "2.0", "25%", "3.00", "41.3", "40.0", "29.0"]


def test_no_edits_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["codecs.py", "--edits", "0"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "--edits 0: at least 1" in capsys.readouterr().err
