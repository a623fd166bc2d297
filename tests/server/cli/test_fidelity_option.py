"""`instgenie edit --fidelity`: what it takes, what it chooses, here and by a server, and what `--timings` tells."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from instgenie.fidelity import MeasuredSetting
from instgenie.model_settings import FIDELITY_FILE
from instgenie.request import EditRequest
from instgenie_server.cli.fidelity_option import FidelityOption
from tests.instgenie.edits import a_request
from tests.server.cli.conftest import Run
from tests.server.cli.test_edit_errors import assert_refused
from tests.server.intake.pictures import assert_alike
from tests.server.live_server import tiny_server

MEASURED = (MeasuredSetting(0, 0, 4, 26.0, 0.2, 2), MeasuredSetting(2, 5, 20, 38.0, 0.35, 3))


@pytest.fixture(scope="module")
def measured_model(tiny_builtin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, as if somebody had measured its settings."""
    folder = tmp_path_factory.mktemp("measured") / "model"
    shutil.copytree(tiny_builtin, folder)
    settings = [asdict(one) for one in MEASURED]
    (folder / FIDELITY_FILE).write_text(json.dumps({"about": {}, "settings": settings}))
    return folder


@pytest.fixture(scope="module")
def measured_server(measured_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server of it."""
    with tiny_server(measured_model, tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.mark.parametrize(
    ("text", "psnr_db"), [("exact", None), ("auto", 35), ("auto:40", 40), ("auto:37.5", 37.5), ("auto:100", 100)]
)
def test_what_it_takes(text: str, psnr_db: float | None) -> None:
    assert FidelityOption.parse(text) == FidelityOption(psnr_db)


@pytest.mark.parametrize(
    ("asked", "steps", "strength", "chosen"),
    [
        (25.0, 4, 1.0, (0, 0, 2, True)),
        (35.0, 4, 1.0, (2, 1, 1, True)),
        (35.0, None, 1.0, (2, 5, 3, True)),
        (35.0, 40, 0.5, (2, 5, 3, True)),
        (39.0, 4, 1.0, (1, None, 1, False)),
        (None, 4, 1.0, (1, None, 1, False)),
    ],
)
def test_what_it_chooses(
    asked: float | None, steps: int | None, strength: float, chosen: tuple[int, int | None, int, bool]
) -> None:
    request: EditRequest = a_request(steps=steps, strength=strength, halo=1, refreshes=None)
    settled = FidelityOption(asked).settled(request, MEASURED, 20)
    assert (settled.halo, settled.refreshes, settled.step_cache, settled.cached) == chosen


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--fidelity", "best"], ["fidelity: 'best' is neither exact nor auto"]),
        (["--fidelity", "auto:"], ["fidelity: 'auto:' is neither"]),
        (["--fidelity", "x" * 1000], ["fidelity: 'xxx"]),
        (["--fidelity", "auto:9.9"], ["fidelity: 9.9 dB is not in 10..100"]),
        (["--fidelity", "auto:101"], ["fidelity: 101 dB is not in 10..100"]),
        (["--fidelity", "auto", "--halo", "1"], ["fidelity: chooses halo, which is to be left out then"]),
        (["--fidelity", "auto", "--refreshes", "1"], ["fidelity: chooses refreshes"]),
        (["--fidelity", "auto", "--step-cache", "1"], ["fidelity: chooses step-cache"]),
        (["--fidelity", "exact", "--cache", "on"], ["fidelity: exact computes every token", "--cache on"]),
        (
            ["--fidelity", "auto:90", "--compare"],
            ["no measured setting has 90 dB", "which --compare rules out"],
        ),
    ],
)
def test_what_it_refuses(
    edit: Run, image_path: Path, mask_path: Path, tmp_path: Path, options: list[str], parts: list[str]
) -> None:
    assert_refused(edit(image_path, "--mask", mask_path, "-o", tmp_path / "out.png", *options), *parts)


@pytest.mark.parametrize(
    ("fidelity", "chosen", "dense_steps"),
    [
        ("auto:30", {"dense": False, "halo": 2, "refreshes": 1, "step_cache": 1}, 1),
        ("auto:20", {"dense": False, "halo": 0, "refreshes": 0, "step_cache": 2}, 0),
        ("auto:50", {"dense": True}, 4),
        ("exact", {"dense": True}, 4),
    ],
)
def test_here_and_by_a_server(
    run: Run,
    measured_model: Path,
    measured_server: str,
    image_path: Path,
    mask_path: Path,
    tmp_path: Path,
    fidelity: str,
    chosen: dict[str, Any],
    dense_steps: int,
) -> None:
    """The same settings, told in the same way, and the same picture."""
    outs = [tmp_path / "here.png", tmp_path / "there.png"]
    cache = [] if chosen["dense"] else ["--cache", "on"]
    asked = ("edit", image_path, "--mask", mask_path, "--prompt", "x", "--timings", "--fidelity", fidelity, *cache)
    here = run(*asked, "-o", outs[0], "--model", measured_model, "--dtype", "float32")
    there = run(*asked, "-o", outs[1], "--server", measured_server)
    for result in (here, there):
        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        assert report["fidelity"] == chosen
        assert report["dense_steps"] == dense_steps
        assert "; --fidelity chose " in result.stderr
    assert_alike(outs[1].read_bytes(), outs[0].read_bytes())


def test_it_tells_what_it_chose_where_recording_does_not_pay(
    run: Run, measured_model: Path, image_path: Path, mask_path: Path, tmp_path: Path
) -> None:
    """All tokens, since records would come too late for one edit; steps are extrapolated all the same."""
    asked = ("edit", image_path, "--mask", mask_path, "--prompt", "x", "--timings", "--fidelity", "auto:20")
    files = ("-o", tmp_path / "out.png", "--model", measured_model, "--cache-dir", tmp_path / "records")
    result = run(*asked, "--guidance", 1, *files)
    report = json.loads(result.stdout)
    assert (report["cache"], report["extrapolated_steps"] > 0) == ("off", True)
    assert report["fidelity"] == {"dense": False, "halo": 0, "refreshes": 0, "step_cache": 2}
    assert "; --fidelity chose halo 0, refreshes 0, step-cache 2\n" in result.stderr


def test_without_it_nothing_is_told(edit: Run, image_path: Path, mask_path: Path, tmp_path: Path) -> None:
    result = edit(image_path, "--mask", mask_path, "-o", tmp_path / "out.png", "--timings", "--cache", "off")
    assert "fidelity" not in json.loads(result.stdout)
