"""Files named by their content: whole or not there, and never other bytes than were written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie_server.jobs.errors import CorruptFileError, MissingFileError, PictureFileError
from instgenie_server.jobs.picture_folder import PictureFolder, picture_digest

DIGEST = picture_digest(b"a picture")


@pytest.fixture
def folder(tmp_path: Path) -> PictureFolder:
    folder = PictureFolder(tmp_path / "files")
    folder.prepare()
    return folder


def path_of(tmp_path: Path, digest: str) -> Path:
    return tmp_path / "files" / digest[:2] / digest[2:]


def test_write_and_read(folder: PictureFolder, tmp_path: Path) -> None:
    folder.write(DIGEST, b"a picture")
    assert folder.read(DIGEST) == b"a picture"
    assert path_of(tmp_path, DIGEST).read_bytes() == b"a picture"
    assert path_of(tmp_path, DIGEST).stat().st_mode & 0o777 == 0o600  # pictures are private
    assert list((tmp_path / "files" / "incoming").iterdir()) == []
    assert {digest: file.num_bytes for digest, file in folder.list().items()} == {DIGEST: 9}


def test_writing_again_changes_only_the_time(folder: PictureFolder, tmp_path: Path) -> None:
    folder.write(DIGEST, b"a picture")
    path = path_of(tmp_path, DIGEST)
    os.utime(path, (1000, 1000))
    inode = path.stat().st_ino
    folder.write(DIGEST, b"a picture")
    assert path.stat().st_ino == inode
    assert folder.list()[DIGEST].written_at > 1000


@pytest.mark.parametrize("rotten", [b"", b"a pictura", b"a picture!"])
def test_rotten_file(folder: PictureFolder, tmp_path: Path, rotten: bytes) -> None:
    folder.write(DIGEST, b"a picture")
    path_of(tmp_path, DIGEST).write_bytes(rotten)
    with pytest.raises(CorruptFileError, match="are not those that were written"):
        folder.read(DIGEST)
    folder.write(DIGEST, b"a picture")  # whoever has the bytes mends it
    folder.drop_corrupt(DIGEST)
    assert folder.read(DIGEST) == b"a picture"
    path_of(tmp_path, DIGEST).write_bytes(rotten)
    folder.drop_corrupt(DIGEST)
    with pytest.raises(MissingFileError, match="there is no such file"):
        folder.read(DIGEST)


def test_delete(folder: PictureFolder) -> None:
    folder.write(DIGEST, b"a picture")
    assert folder.delete(DIGEST)
    assert not folder.delete(DIGEST)
    assert folder.list() == {}


def test_what_a_crash_left_half_written_is_thrown_away(folder: PictureFolder, tmp_path: Path) -> None:
    folder.write(DIGEST, b"a picture")
    leftover = tmp_path / "files" / "incoming" / "half"
    leftover.write_bytes(b"a pic")
    again = PictureFolder(tmp_path / "files")
    again.prepare()
    assert not leftover.exists()
    assert again.read(DIGEST) == b"a picture"


def test_files_of_others_are_not_ours(folder: PictureFolder, tmp_path: Path) -> None:
    (tmp_path / "files" / "ab" / "README").touch()
    (tmp_path / "files" / "README").touch()
    assert folder.list() == {}


def test_failed_write_leaves_nothing(folder: PictureFolder, tmp_path: Path) -> None:
    path_of(tmp_path, DIGEST).mkdir()  # a file cannot take its place
    with pytest.raises(PictureFileError, match=r"writing .*directory"):
        folder.write(DIGEST, b"a picture")
    assert list((tmp_path / "files" / "incoming").iterdir()) == []


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_digests(first: bytes, second: bytes) -> None:
    assert (picture_digest(first) == picture_digest(second)) == (first == second)
