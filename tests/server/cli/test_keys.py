"""`instgenie keys`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instgenie_server.access.key_file import KeyFile
from instgenie_server.access.keys import matches, split_key
from tests.server.cli.conftest import Run


@pytest.fixture
def keys(run: Run, tmp_path: Path) -> Run:
    return lambda *arguments: run("keys", *arguments, "--data-dir", tmp_path)


def test_added_key_is_printed_once_and_can_be_used(keys: Run, tmp_path: Path) -> None:
    result = keys("add", "alice")
    assert result.exit_code == 0, result.output
    parts = split_key(result.stdout.strip())
    assert parts is not None
    stored = KeyFile(tmp_path).read()[parts[0]]
    assert stored.tenant == "alice"
    assert matches(parts[1], stored)
    listed = keys("list")
    assert f"ig-{parts[0]}" in listed.stdout
    assert "alice" in listed.stdout
    assert parts[1] not in listed.output + result.stderr


def test_json_list(keys: Run) -> None:
    assert json.loads(keys("list", "--json").stdout) == []
    keys("add", "alice")
    keys("add", "bob")
    rows = json.loads(keys("list", "--json").stdout)
    assert [row["tenant"] for row in rows] == ["alice", "bob"]
    assert set(rows[0]) == {"id", "tenant", "created_at"}


@pytest.mark.parametrize("form", ["whole", "name", "id"])
def test_revoke(keys: Run, tmp_path: Path, form: str) -> None:
    whole = keys("add", "alice").stdout.strip()
    name = whole.partition(".")[0]
    result = keys("revoke", {"whole": whole, "name": name, "id": name.removeprefix("ig-")}[form])
    assert result.exit_code == 0, result.output
    assert "alice" in result.stderr
    assert KeyFile(tmp_path).read() == {}


def test_revoke_unknown(keys: Run) -> None:
    result = keys("revoke", "ig-00000000")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no such key" in result.stderr


def test_bad_tenant(keys: Run, tmp_path: Path) -> None:
    result = keys("add", "a/b")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: tenant: 'a/b' is no name of a tenant")
    assert not (tmp_path / "keys.json").exists()


def test_damaged_file(keys: Run, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")
    result = keys("list")
    assert result.exit_code == 2
    assert str(tmp_path / "keys.json") in result.stderr


def test_folder_is_that_of_the_settings(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text(f"data_dir = '{tmp_path / 'data'}'\n")
    assert run("keys", "add", "alice", "--config", config).exit_code == 0
    assert len(KeyFile(tmp_path / "data").read()) == 1
