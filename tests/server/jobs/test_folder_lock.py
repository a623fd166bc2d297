"""One server per folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from instgenie_server.jobs.errors import FolderInUseError, JobStoreError
from instgenie_server.jobs.folder_lock import FolderLock

CHILD = """
import sys
from pathlib import Path
from instgenie_server.jobs.folder_lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
lock.take()
print("taken", flush=True)
sys.stdin.read()
"""


def test_second_taker_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    first, second = FolderLock(folder), FolderLock(folder)
    first.take()
    with pytest.raises(FolderInUseError, match="another server works on"):
        second.take()
    first.release()
    second.take()
    second.release()


def test_lock_goes_with_a_killed_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"taken\n"
        lock = FolderLock(tmp_path)
        with pytest.raises(FolderInUseError):
            lock.take()
        child.kill()
        child.wait(10)
        lock.take()
        lock.release()


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JobStoreError, match=r"server\.lock cannot be opened"):
        FolderLock(tmp_path / "file" / "folder").take()
