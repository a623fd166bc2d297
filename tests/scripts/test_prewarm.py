"""`scripts/prewarm.py` on a server: what was recorded is not recorded again, unless it or the server has changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from instgenie.orders import HeldTemplate, WarmOrder, WarmReport
from instgenie_server.settings import Settings
from prewarm import EXTENSIONS, main
from tests.server.live_server import live_server, tiny_server
from tests.server.routes.scripted_replica import ScriptedReplica
from tests.server.routes.site import ready


@pytest.fixture(scope="module")
def server(tiny_builtin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    threads = torch.get_num_threads()
    with tiny_server(tiny_builtin, tmp_path_factory.mktemp("server")) as url:
        yield url
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures, one of them in a folder of its own, and something else."""
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.webp", "c.JPG", "more/d.png")):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    return tmp_path / "pictures"


def names(output: str) -> list[str]:
    """Names of the pictures that the lines tell of."""
    return sorted(Path(line.split()[1]).name for line in output.splitlines() if line.startswith("template-"))


def test_folder(server: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--server", server]) == 0
    assert names(capsys.readouterr().out) == ["a.png", "b.webp", "c.JPG", "d.png"]
    assert len((folder.parent / "pictures.prewarm.jsonl").read_text().splitlines()) == 4
    assert main([str(folder), "--server", server]) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "4 of 4 pictures were warm already\n")


def test_goes_on_where_it_stopped(server: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line of the state was cut short, a picture has moved, and another one has changed."""
    state = folder / "state"
    assert main([str(folder), "--server", server, "--state", str(state)]) == 0
    lines = {json.loads(line)["image"]: line for line in state.read_text().splitlines()}
    (cut,) = (line for name, line in lines.items() if name.endswith("a.png"))
    state.write_text("\n".join([*(line for line in lines.values() if line != cut), cut[:30]]))
    (folder / "b.webp").rename(folder / "moved.webp")
    Image.new("RGB", (64, 64)).save(folder / "more/d.png")
    capsys.readouterr()
    for expected in (["a.png", "d.png"], []):
        assert main([str(folder), "--server", server, "--state", str(state)]) == 0
        assert names(capsys.readouterr().out) == expected


def test_a_server_that_was_started_again_has_nothing(
    server: str, tiny_builtin: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = folder / "state"
    assert main([str(folder), "--server", server, "--state", str(state)]) == 0
    capsys.readouterr()
    with tiny_server(tiny_builtin, tmp_path / "data") as other:
        state.write_text(state.read_text().replace(server, other))
        assert main([str(folder), "--server", other, "--state", str(state)]) == 0
    assert len(names(capsys.readouterr().out)) == 4


class QuickReplica(ScriptedReplica):
    """Records at once, under the template's id."""

    async def warm(self, order: WarmOrder, report: Callable[[WarmReport], None]) -> None:
        self.records[order.id] = HeldTemplate(100, 0)
        report(WarmReport(1, 1, (0, 0, 64, 64), order.id, 100, "cold"))


def test_evicted_records_are_made_again(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replica = QuickReplica()
    with live_server(Settings(data_dir=tmp_path / "data"), ready(replica)) as url:
        assert main([str(folder), "--server", url]) == 0
        ids = {Path(line.split()[1]).name: line.split()[0] for line in capsys.readouterr().out.splitlines()}
        replica.evict(ids["a.png"], ids["c.JPG"])
        for expected in (["a.png", "c.JPG"], []):
            assert main([str(folder), "--server", url]) == 0
            assert names(capsys.readouterr().out) == expected
    assert replica.records.keys() == set(ids.values())


def test_manifest(server: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = folder / "manifest.jsonl"
    lines: list[dict[str, object]] = [
        {"image": "a.png", "boxes": [[0, 0, 20, 20], [30, 30, 40, 40]], "pin": True},
        {"image": "a.png", "template_prompt": "noise"},
        {"image": "gone.png"},
        {"image": "notes.txt"},
    ]
    manifest.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert main([str(manifest), "--server", server]) == 1
    told = capsys.readouterr()
    assert names(told.out) == ["a.png", "a.png"]
    assert "gone.png: cannot be read" in told.err
    assert "notes.txt: image: " in told.err
    assert main([str(manifest), "--server", server]) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1"),
        ("[]", "line 1"),
        ("{}", "image"),
        ('{"image": "a.png", "boxs": []}', "boxs: Extra"),
        ('{"image": "a.png", "boxes": [[1, 2, 3]]}', "boxes.0.3: "),
        ('{"image": "a.png", "boxes": [[1, 2, 3, "4"]]}', "boxes.0.3: "),
        ('{"image": "a.png", "boxes": 3}', "boxes: "),
        ('{"image": "a.png", "template_prompt": []}', "template_prompt: "),
        ('{"image": "a.png", "guidance": NaN}', "guidance: "),
        ('{"image": "a.png", "steps": "4"}', "steps: "),
        ('{"image": "a.png", "pin": 1}', "pin: "),
        ('{"image": 3}', "image: "),
        ('{"image": ""}', "image: "),
        ('{"image": "a\\u0000"}', "image: "),
    ],
)
def test_wrong_manifests(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(line)
    assert main([str(manifest)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {manifest}, line 1: ")
    assert message in told


def test_nobody_there_and_no_source(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--server", "http://127.0.0.1:1"]) == 2
    assert main([str(folder / "gone")]) == 2
    assert main([str(folder), "--server", "nonsense"]) == 2
    assert capsys.readouterr().err.count("error: ") == 3


def test_what_is_taken_for_a_picture() -> None:
    assert {".png", ".jpg", ".jpeg", ".webp"} == EXTENSIONS
