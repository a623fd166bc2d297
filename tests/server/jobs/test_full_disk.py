"""A disk that is full for a while: what cannot be stored is refused, what was accepted is done later."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from tests.server.jobs import full_disk_child

ROOT = Path(__file__).resolve().parents[3]


def test_full_disk(tmp_path: Path) -> None:
    command = [sys.executable, full_disk_child.__file__, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert finished.returncode == 0, finished.stderr
    told = [line.split() for line in finished.stdout.splitlines()]
    accepted = [words[1] for words in told if words[0] == "accepted"]
    refused = [words[1:] for words in told if words[0] == "refused"]
    assert [error for _, error in refused] == ["PictureFileError", "JobStoreError"]
    assert len(accepted) > 5
    assert accepted[-1] == refused[-1][0]
    assert [words[1:] for words in told if words[0] == "ended"] == [[job_id, "done"] for job_id in accepted]
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as table:
        assert sorted(row[0] for row in table.execute("SELECT id FROM jobs")) == sorted(accepted)
        assert table.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert not list((tmp_path / "files" / "incoming").iterdir())
