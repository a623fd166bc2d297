"""`eval_builtin.py` from its command line to its JSON, on an editor that leaves pictures as they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import eval_builtin
from builtin_recipe.concept_file import save_concepts
from builtin_recipe.concepts import CONCEPTS, Concept
from instgenie.request import EditRequest, EditResult, EditTimings

Evaluate = Callable[..., int]


@pytest.fixture
def evaluate(tiny_builtin: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Runs the command on the tiny model, whose edits change nothing; gives its exit status."""

    def unchanged(_: object, request: EditRequest) -> EditResult:
        return EditResult(request.picture, EditTimings())

    monkeypatch.setattr("instgenie.editor.Editor.edit", unchanged)

    def run(*arguments: str | Path, model: Path = tiny_builtin) -> int:
        monkeypatch.setattr("sys.argv", ["eval_builtin.py", "--model", *map(str, (model, *arguments))])
        try:
            eval_builtin.main()
        except SystemExit as end:
            return int(str(end.code))
        return 0

    return run


def test_every_row_of_the_table_is_in_the_json(
    evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("--cases", "2", "--json", tmp_path / "found.json") == 0
    found = json.loads((tmp_path / "found.json").read_text())
    shown = capsys.readouterr().out
    assert found["about"]["groups"] == list(eval_builtin.GROUPS)
    assert (found["about"]["cases"], found["about"]["things"], found["about"]["size"]) == (2, [64, 64], 64)
    assert all(name in shown for name in found["results"])
    assert found["results"]["removing a thing, unseen captions, PSNR in mask"]["n"] == 1
    assert found["results"]["shapes"]["n"] == 1


def test_what_was_measured_stays_when_a_later_group_fails(
    evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(eval_builtin, "size_rows", fails)
    with pytest.raises(KeyboardInterrupt):
        evaluate("--cases", "1", "--only", "nothing", "sizes", "--json", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["about"]["groups"] == ["nothing"]
    assert len(found["results"]) == 6


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ("--cases 0", "--cases 0: at least 1"),
        ("--steps 0", "--steps 0: at least 1"),
        ("--size 100", "--size 100: whole tokens of 8 pixels"),
        ("--json nowhere/found.json", "--json nowhere/found.json: there is no folder"),
    ],
)
def test_what_cannot_be_measured_is_told_before_anything_is(
    evaluate: Evaluate, capsys: pytest.CaptureFixture[str], arguments: str, fault: str
) -> None:
    assert evaluate(*arguments.split()) == 2
    assert fault in capsys.readouterr().err


def test_things_without_a_picture_are_told_of(
    evaluate: Evaluate, tiny_builtin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(tiny_builtin, tmp_path / "model")
    save_concepts(model, [*CONCEPTS, Concept("pictured", "yeti", ("yeti",), code="1f9cc")])
    assert evaluate("--cases", "1", "--only", "headline", model=model) == 0
    assert "there are pictures of 64 of the 65 things that it knows" in capsys.readouterr().out
