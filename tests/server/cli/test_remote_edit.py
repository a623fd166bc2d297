"""`instgenie edit --server`: the same picture as in this process, and what is told of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.server.cli.conftest import Run, saved
from tests.server.cli.test_edit_errors import assert_refused
from tests.server.intake.pictures import assert_alike

NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def remote(run: Run, server: str) -> Run:
    """Runs `instgenie edit` with a prompt on the server."""
    return lambda *arguments: run("edit", "--server", server, "--prompt", "a red apple", *arguments)


@pytest.mark.parametrize(
    "options",
    [
        ["--seed", "3"],
        ["--cache", "off", "--steps", "2"],
        ["--halo", "2", "--feather", "3", "--guidance", "1.5", "--strength", "0.7"],
        ["--step-cache", "2", "--refreshes", "1", "--steps", "6"],
        ["--template-prompt", "noise", "--template-seed", "9", "--cache", "on"],
    ],
)
@pytest.mark.parametrize("extension", [".png", ".webp"])
def test_same_picture_as_in_this_process(
    edit: Run, remote: Run, image_path: Path, mask_path: Path, tmp_path: Path, options: list[str], extension: str
) -> None:
    here, there = tmp_path / f"here{extension}", tmp_path / f"there{extension}"
    cache = [] if "--cache" in options else ["--cache", "on"]
    for run, out in ((edit, here), (remote, there)):
        result = run(image_path, "--mask", mask_path, "-o", out, *options, *cache)
        assert result.exit_code == 0, result.output
        assert result.stderr.startswith(f"wrote {out}")
    assert_alike(there.read_bytes(), here.read_bytes())


@pytest.mark.parametrize("where", ["here", "there"])
def test_a_prompt_that_names_nothing_known_gets_a_note(
    edit: Run, remote: Run, image_path: Path, mask_path: Path, tmp_path: Path, where: str
) -> None:
    run, out = edit if where == "here" else remote, tmp_path / "out.png"
    for prompt, told in (("two stars", False), ("a unicorn", True)):
        result = run(image_path, "--mask", mask_path, "-o", out, "--prompt", prompt)
        assert result.exit_code == 0, result.output
        assert ("Note: tiny-builtin was not trained on what 'a unicorn' names" in result.stderr) is told


def test_timings(remote: Run, server: str, image_path: Path, mask_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    result = remote(image_path, "--mask", mask_path, "-o", out, "--timings", "--seed", "5", "--cache", "on")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["seed"] == 5
    assert (report["server"], report["model"], report["dtype"]) == (server, "tiny-builtin", "float32")
    assert report["id"].startswith("edit-")
    assert report["steps"] == 4
    assert report["cache"] in ("cold", "hit")
    assert 0 < report["tokens_active"] <= report["tokens_total"]
    assert 0 < report["denoise_ms"] < report["total_ms"]


def test_transparent_parts_are_the_mask(
    edit: Run, remote: Run, picture: Image.Image, mask: Image.Image, tmp_path: Path
) -> None:
    picture.putalpha(Image.fromarray(255 - np.asarray(mask)))
    image_path = saved(picture, tmp_path / "holes.png")
    here, there = tmp_path / "here.png", tmp_path / "there.png"
    for run, out in ((edit, here), (remote, there)):
        assert run(image_path, "-o", out, "--cache", "on").exit_code == 0
    assert_alike(there.read_bytes(), here.read_bytes())


def test_what_is_wrong_with_the_values_is_told_before_anything_is_sent(
    run: Run, image_path: Path, mask_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    result = run("edit", image_path, "--mask", mask_path, "--prompt", "x", "-o", out, "--server", NOBODY, "--steps=0")
    assert_refused(result, "steps: 0 is not in 1..1000")


@pytest.mark.parametrize("options", [["--compare"], ["--threads", "1"], ["--dtype", "float32"], ["--model", "x"]])
def test_what_a_server_decides(
    remote: Run, image_path: Path, mask_path: Path, tmp_path: Path, options: list[str]
) -> None:
    result = remote(image_path, "--mask", mask_path, "-o", tmp_path / "out.png", *options)
    assert_refused(result, options[0].removeprefix("--"), "does not go with --server")


def test_nobody_there(run: Run, image_path: Path, mask_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    result = run("edit", image_path, "--mask", mask_path, "--prompt", "x", "-o", out, "--server", NOBODY)
    assert_refused(result, f"{NOBODY} cannot be reached", "refused")
    assert not out.exists()


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://host", "http://", "http://user:word@host", "http://host:x"])
def test_wrong_address(run: Run, image_path: Path, mask_path: Path, tmp_path: Path, url: str) -> None:
    out = tmp_path / "out.png"
    result = run("edit", image_path, "--mask", mask_path, "--prompt", "x", "-o", out, "--server", url)
    assert_refused(result, "server: ", "does not look like http://host:port")


@pytest.mark.parametrize("api_key", ["with space", "ümlaut", "line\nbreak"])
def test_keys_that_are_none(remote: Run, image_path: Path, mask_path: Path, tmp_path: Path, api_key: str) -> None:
    result = remote(image_path, "--mask", mask_path, "-o", tmp_path / "out.png", "--api-key", api_key)
    assert_refused(result, "api_key: ")
    assert api_key not in result.output


def test_imports_no_engine(server: str, image_path: Path, mask_path: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from instgenie_server.cli.app import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "app(['warm', sys.argv[1 + sys.argv[1:].index('edit') + 1], '--server', sys.argv[-1]], standalone_mode=False)\n"
        "print(*sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    arguments = ("edit", image_path, "--mask", mask_path, "--prompt", "x", "-o", tmp_path / "out.png")
    command = (sys.executable, "-c", program, *map(str, arguments), "--server", server)
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("\n\n"), result.stdout
