"""`instgenie warm` and `instgenie templates` on a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.server.cli.conftest import Run
from tests.server.cli.test_edit_errors import assert_refused


@pytest.fixture
def warm(run: Run, server: str) -> Run:
    """Runs `instgenie warm`."""
    return lambda *arguments: run("warm", "--server", server, *arguments)


@pytest.fixture
def templates(run: Run, server: str) -> Run:
    """Runs a command of `instgenie templates`."""
    return lambda command, *arguments: run("templates", command, "--server", server, *arguments)


def warmed(run: Run, *arguments: str | Path) -> dict[str, Any]:
    """The template that `instgenie warm --json` tells of."""
    result = run("--json", *arguments)
    assert result.exit_code == 0, result.output
    template: dict[str, Any] = json.loads(result.stdout)
    return template


def test_warm(warm: Run, run: Run, server: str, image_path: Path, mask_path: Path, tmp_path: Path) -> None:
    template = warmed(warm, image_path, "--boxes", "40,30,70,50", "--pin")
    assert template["image"] == str(image_path)
    assert (template["status"], template["pinned"], template["windows"]) == ("warm", True, 1)
    assert template["num_bytes"] > 0
    edited = run(
        *("edit", image_path, "--mask", mask_path, "--prompt", "x", "-o", tmp_path / "out.png"),
        *("--server", server, "--timings"),
    )
    assert json.loads(edited.stdout)["cache"] == "hit"


def test_warm_several_and_go_on_after_a_bad_one(warm: Run, picture: Image.Image, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        picture.rotate(number).save(path)
    paths[1].write_bytes(b"not a picture")
    paths[3].unlink()
    result = warm(*paths)
    assert result.exit_code == 1
    told = sorted(line.split()[1] for line in result.stdout.splitlines())
    assert told == [str(paths[number]) for number in (0, 2, 4)]
    assert sorted(result.stderr.splitlines())[1] == f"error: {paths[3]}: cannot be read: No such file or directory"
    assert f"error: {paths[1]}: image: " in result.stderr


@pytest.mark.parametrize("boxes", ["1,2,3", "a,b,c,d", "1;2;3;4", ""])
def test_boxes_that_are_none(warm: Run, image_path: Path, boxes: str) -> None:
    assert_refused(warm(image_path, "--boxes", boxes), "boxes: ", "LEFT,TOP,RIGHT,BOTTOM")


def test_box_outside_the_picture(warm: Run, image_path: Path) -> None:
    result = warm(image_path, "--boxes", "0,0,1000,10")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "boxes: " in result.stderr


def test_ls_and_show(warm: Run, templates: Run, image_path: Path) -> None:
    template = warmed(warm, image_path, "--boxes", "0,0,20,20")
    listed = json.loads(templates("ls", "--json").stdout)
    assert listed[0]["id"] == template["id"]
    table = templates("ls").stdout
    assert template["id"] in table
    assert "130x90" in table
    shown = json.loads(templates("show", template["id"], "--json").stdout)
    assert shown == {name: value for name, value in template.items() if name != "image"}
    told = templates("show", template["id"]).stdout
    assert f"id: {template['id']}\n" in told
    assert f"tiers: host {template['num_bytes'] / 1e6:.1f} MB\n" in told
    assert "hits: 0\n" in told


def test_pin_unpin_rm(warm: Run, templates: Run, image_path: Path) -> None:
    template_id = warmed(warm, image_path)["id"]
    for command, pinned in (("pin", True), ("unpin", False)):
        assert templates(command, template_id).exit_code == 0
        assert json.loads(templates("show", template_id, "--json").stdout)["pinned"] is pinned
    assert templates("rm", template_id).exit_code == 0
    assert_refused(templates("show", template_id), f"there is no template {template_id}")


@pytest.mark.parametrize("command", ["show", "rm", "pin", "unpin"])
@pytest.mark.parametrize("template_id", ["template-0", "../edits", "a/b?c#d", "ü"])
def test_no_such_template(templates: Run, command: str, template_id: str) -> None:
    assert_refused(templates(command, template_id), "there is no")


def test_nobody_there(run: Run, image_path: Path) -> None:
    assert_refused(run("warm", image_path, "--server", "http://127.0.0.1:1"), "cannot be reached", "refused")
    assert_refused(run("templates", "ls", "--server", "http://127.0.0.1:1"), "cannot be reached", "refused")
