"""What is missing is told before anything is started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from instgenie_server.operator_error import SettingsError
from instgenie_server.preflight import check_engine
from instgenie_server.settings import EngineSettings


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    return folder


def problems(**values: object) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        check_engine(EngineSettings.model_validate(values))
    return caught.value.problems


def test_what_is_there(model: Path, tmp_path: Path) -> None:
    check_engine(EngineSettings())
    check_engine(EngineSettings(model=model, trace=tmp_path / "t.json", devices=("cpu",)))


@pytest.mark.parametrize("replica", ["own", "inline"])
def test_all_that_is_missing_is_named(tmp_path: Path, replica: str) -> None:
    gone = tmp_path / "gone"
    found = problems(replica=replica, model=gone, trace=gone / "t.json", devices="cuda:999")
    assert [problem.partition(":")[0] for problem in found] == ["engine.model", "engine.trace", "engine.devices"]
    assert str(gone) in found[0]
    assert str(gone) in found[1]
    assert "cuda:999" in found[2]


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    (found,) = problems(model=tmp_path)
    assert str(tmp_path) in found
    assert "model_index.json" in found


def test_a_trace_that_is_a_folder(tmp_path: Path) -> None:
    assert str(tmp_path) in problems(trace=tmp_path)[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_trace_in_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "cannot be written" in problems(trace=tmp_path / "t.json")[0]


def test_replicas_elsewhere_have_theirs_elsewhere(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    check_engine(EngineSettings(replica="unix:/run/a.sock", model=gone, trace=gone / "t.json", devices=("cuda:999",)))
    check_engine(EngineSettings(kind="ray", model=gone))
