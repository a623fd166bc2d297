from __future__ import annotations

import os
from pathlib import Path

import pytest

from instgenie_server.ray_engine.meant_cluster import keep_to_loopback, meant_cluster

VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@pytest.fixture(autouse=True)
def nothing_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "")  # so that it is put back at the end
    monkeypatch.delenv(VARIABLE)


def test_what_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert meant_cluster(None) is None
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.1:6379\n")
    assert meant_cluster(None) == "10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert meant_cluster(None) == "10.0.0.2:6379"
    assert meant_cluster("10.0.0.3:6379") == "10.0.0.3:6379"


@pytest.mark.parametrize("told", [None, "local"])
def test_one_that_is_started_keeps_to_loopback(told: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if told is not None:
        monkeypatch.setenv("RAY_ADDRESS", told)
    keep_to_loopback(None)
    assert os.environ[VARIABLE] == "0"


def test_one_that_is_joined_is_left_as_it_is() -> None:
    keep_to_loopback("10.0.0.3:6379")
    assert VARIABLE not in os.environ


def test_so_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    keep_to_loopback(None)
    assert os.environ[VARIABLE] == "1"
