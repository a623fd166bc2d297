"""Where a server's socket is, and that nothing of it is left behind for long."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

from instgenie_server.replica_process.runtime_folder import runtime_folder

KILLED = """
import os, signal, sys
from pathlib import Path
from instgenie_server.replica_process.runtime_folder import runtime_folder
with runtime_folder(Path(sys.argv[1])) as folder:
    (folder / "secret").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_is_private_and_goes_with_the_block(tmp_path: Path) -> None:
    with runtime_folder(tmp_path) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "replica.sock").touch()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_server_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    subprocess.run((sys.executable, "-c", KILLED, str(tmp_path)), check=False)
    (left,) = tmp_path.iterdir()
    assert (left / "secret").exists()
    with runtime_folder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_what_others_use_stays(tmp_path: Path) -> None:
    (tmp_path / "instgenie-server-starting").mkdir()
    (tmp_path / "something-else").mkdir()
    with runtime_folder(tmp_path) as first, runtime_folder(tmp_path) as second:
        assert first != second
        assert first.exists()
        assert len(list(tmp_path.iterdir())) == 4
