"""The file of API keys."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from instgenie_server.access.key_file import KeyFile
from instgenie_server.access.keys import ScryptCost, matches, split_key
from instgenie_server.operator_error import KeyFileError

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CHEAP = ScryptCost(n=4, r=2)


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "data")


def test_no_file_is_no_keys(file: KeyFile) -> None:
    assert file.read() == {}
    assert file.stamp() is None


def test_what_is_added_is_read(file: KeyFile) -> None:
    text, key = file.add("alice", NOW, CHEAP)
    _, other = file.add("bob", NOW, CHEAP)
    assert list(file.read().values()) == [key, other]
    parts = split_key(text)
    assert parts is not None
    assert matches(parts[1], file.read()[parts[0]])


def test_only_the_owner_can_read_it_and_it_holds_no_secret(file: KeyFile) -> None:
    text, _ = file.add("alice", NOW, CHEAP)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert text.partition(".")[2] not in file.path.read_text()
    assert json.loads(file.path.read_text())["keys"][0]["scrypt"] == {"n": 4, "r": 2, "p": 1}


def test_revoked_keys_are_gone(file: KeyFile) -> None:
    _, key = file.add("alice", NOW, CHEAP)
    _, other = file.add("bob", NOW, CHEAP)
    assert file.revoke(key.id) == key
    assert file.revoke(key.id) is None
    assert file.read() == {other.id: other}
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_every_change_changes_the_stamp(file: KeyFile) -> None:
    _, key = file.add("alice", NOW, CHEAP)
    first = file.stamp()
    file.add("bob", NOW, CHEAP)
    second = file.stamp()
    file.revoke(key.id)
    assert len({first, second, file.stamp()}) == 3


def test_changes_at_the_same_time_are_all_kept(file: KeyFile) -> None:
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda number: file.add(f"tenant{number}", NOW, CHEAP)[1], range(24)))
    assert sorted(file.read()) == sorted(key.id for key in added)
    assert {path.name for path in file.path.parent.iterdir()} == {"keys.json", "keys.lock"}


def test_refused_tenant_leaves_the_file_alone(file: KeyFile) -> None:
    file.add("alice", NOW, CHEAP)
    before = file.path.read_bytes()
    with pytest.raises(ValueError, match="no name of a tenant"):
        file.add("a/b", NOW, CHEAP)
    assert file.path.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"null",
        b"\xff",
        b'{"version": 2, "keys": []}',
        b'{"version": 1}',
        b'{"version": 1, "keys": [3]}',
        b'{"version": 1, "keys": [{"id": "a"}]}',
    ],
)
def test_damaged_files_are_named(file: KeyFile, content: bytes) -> None:
    file.path.parent.mkdir()
    file.path.write_bytes(content)
    with pytest.raises(KeyFileError, match=str(file.path)):
        file.read()
    with pytest.raises(KeyFileError):
        file.add("alice", NOW, CHEAP)
    assert file.path.read_bytes() == content


def test_costs_of_the_file_are_bounded(file: KeyFile) -> None:
    file.add("alice", NOW, CHEAP)
    file.path.write_text(file.path.read_text().replace('"n": 4', '"n": 1073741824'))
    with pytest.raises(KeyFileError, match="power of 2"):
        file.read()


def test_unusable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    file = KeyFile(tmp_path / "data")
    with pytest.raises(KeyFileError, match="cannot be written"):
        file.add("alice", NOW, CHEAP)
    with pytest.raises(KeyFileError, match="cannot be read"):
        file.read()
    with pytest.raises(KeyFileError, match="cannot be read"):
        file.stamp()
