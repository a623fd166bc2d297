"""The smoke preset: the whole pipeline from the repository's own files to an edit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import train_builtin
from builtin_recipe.cases import held_out_cases
from builtin_recipe.pictures import load_atlas
from instgenie.checkpoint import BUILTIN, load_checkpoint
from instgenie.editor import Editor
from instgenie_cache import MemoryStore

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train_builtin.py"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:.*low_cpu_mem_usage.*")
def test_the_smoke_preset_trains_a_model_that_loads_and_edits(tmp_path: Path) -> None:
    command = (sys.executable, str(SCRIPT), "--preset", "smoke", "--minutes", "0.05", "--out", str(tmp_path / "model"))
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    device = torch.device("cpu")
    editor = Editor(load_checkpoint(tmp_path / "model", torch.float32, device), MemoryStore(1 << 30))
    assert editor.checkpoint.settings.canvas_tokens == 144
    case = held_out_cases("pictured", 1, 96, load_atlas())[0]
    for cached in (True, False):
        request = case.request(steps=3, cached=cached)
        before, after = (np.asarray(picture) for picture in (request.picture, editor.edit(request).picture))
        assert np.array_equal(before[~request.mask], after[~request.mask])
        assert not np.array_equal(before[request.mask], after[request.mask])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_model_is_trained_on(tmp_path: Path) -> None:
    """From a model, then from the checkpoint, whatever --from says; what is no model is refused."""

    def train(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, str(SCRIPT), "--preset", "smoke", "--minutes", "9", "--steps", "1", *arguments)
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert train("--out", "first").returncode == 0
    onward = ("--from", "first", "--out", "second", "--checkpoint", "run.pt")
    started = train(*onward)
    assert "starts from first, step 1" in started.stdout, started.stderr
    assert "in 2 steps" in started.stdout
    assert "goes on from run.pt, step 2" in train(*onward).stdout
    idle = train("--from", "first", "--out", "third", "--steps", "0")
    assert (idle.returncode, (tmp_path / "third" / "transformer").exists()) == (1, False)
    assert "no step was made" in idle.stderr
    refused = train("--from", str(BUILTIN), "--out", "third")
    assert (refused.returncode, f"--from {BUILTIN}: num_attention_heads: 4, but the recipe's 1" in refused.stderr) == (
        2,
        True,
    )


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_the_real_presets_ask_for_their_data(tmp_path: Path, preset: str) -> None:
    command = (sys.executable, str(SCRIPT), "--preset", preset, "--out", str(tmp_path / "model"))
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert f"--preset {preset} needs --data" in ran.stderr
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (
            "--preset gpu --data data --scale 3",
            "--scale 3: 192 and 256 pixels divided by it have to be whole tokens of 8",
        ),
        ("--preset gpu --data data --scale 0", "--scale 0: "),
        ("--preset gpu --data data --concepts 0", "--concepts 0: at least 1"),
        ("--preset cpu --data data --scale 2", "--scale is for preset gpu, not for cpu"),
        ("--preset smoke --batch-tokens 99", "--batch-tokens is for preset gpu, not for smoke"),
        ("--preset smoke --concepts 9", "--concepts is for preset gpu, not for smoke"),
        ("--preset cpu --data nowhere", "--data nowhere: there is no folder fluent-emoji-3d/assets in it"),
        ("--preset smoke --from nowhere", "--from nowhere: there is no folder transformer in it"),
        ("--preset smoke --text-encoder instgenie/builtin", "--text-encoder needs --data"),
        ("--preset smoke --minutes -1", "--minutes -1.0: at least 0"),
        ("--preset smoke --minutes nan", "--minutes nan: at least 0"),
        ("--preset smoke --shard-mb -1", "--shard-mb -1.0: at least 0"),
        ("--preset smoke --threads 0", "--threads 0: at least 1"),
        ("--preset smoke --steps -2", "--steps -2: at least 0"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    arguments: str, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["train_builtin.py", *arguments.split()])
    with pytest.raises(SystemExit, match="2"):
        train_builtin.main()
    assert fault in capsys.readouterr().err
