"""A packed folder stands in for the data it was made of, without a network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from builtin_recipe.pictures import ASSETS, load_atlas
from builtin_recipe.presets import codes_of, data_concepts
from instgenie.checkpoint import BUILTIN
from pack_data import pack

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train_builtin.py"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Pictures under their source's names, one of them of no use; emojibase with two entries."""
    folder = tmp_path / "data"
    (folder / ASSETS).mkdir(parents=True)
    for code, picture in load_atlas().items():
        picture.resize((48, 48)).save(folder / ASSETS / f"{code}{'-fe0f' if code == '2601' else ''}.webp")
    for code in ("1f435", "1f4a9"):
        picture.resize((48, 48)).save(folder / ASSETS / f"{code}.webp")
    entries = [
        {"hexcode": "1F435", "label": "monkey face", "order": 1, "tags": ["banana"]},
        {"hexcode": "1F4A9", "label": "pile of poo", "order": 2},
    ]
    (folder / "emojibase-data" / "en").mkdir(parents=True)
    (folder / "emojibase-data" / "en" / "data.json").write_text(json.dumps(entries))
    return folder


def test_a_pack_has_what_is_drawn_and_nothing_else(data: Path, tmp_path: Path) -> None:
    files = pack(data, tmp_path / "pack", text=False)
    names = {path.name for path in files}
    assert {"1f435.webp", "2601-fe0f.webp", "data.json"} < names
    assert "1f4a9.webp" not in names
    concepts = data_concepts(tmp_path / "pack")
    assert concepts == data_concepts(data)
    assert len(codes_of(concepts)) == 65
    assert codes_of(data_concepts(data, 3)) == codes_of(concepts)[:3]
    with pytest.raises(FileExistsError):
        pack(data, tmp_path / "pack", text=False)


def test_packed_weights_are_small_files(data: Path, tmp_path: Path) -> None:
    files = pack(data, tmp_path / "pack", text=True, text_encoder=BUILTIN)
    assert max(path.stat().st_size for path in files) < 16_000_000
    assert sum(path.parent.name == "text_encoder" for path in files) > 2


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_gpu_preset_runs_in_pieces_from_a_pack(data: Path, tmp_path: Path) -> None:
    pack(data, tmp_path / "pack", text=False)
    arguments = "--preset gpu --minutes 0.02 --scale 4 --batch-tokens 160 --concepts 1 --threads 1 --out model"
    command = (sys.executable, str(SCRIPT), *arguments.split(), "--checkpoint", "run", "--piece", "0.01")
    command += ("--data", "pack", "--text-encoder", str(BUILTIN), "--light", "light")
    told = ""
    for _ in range(2):
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        told += ran.stdout
    files = [path for name in ("run", "light", "model") for path in (tmp_path / name).rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) <= 15_000_000
    assert (tmp_path / "model" / "concepts.json").exists()
    assert "autoencoder keeps" in told
