"""What `instgenie serve` shows on a terminal."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.processes.server_process import PROGRAM, SMALL, STOP_SECONDS, environment

pytestmark = pytest.mark.timeout(480)


def test_status_line(tiny_builtin: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    options = ("--port", "0", "--model", str(tiny_builtin), "--data-dir", str(tmp_path), *SMALL)
    with subprocess.Popen(
        (sys.executable, "-c", PROGRAM, "serve", *options),
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=environment() | {"TERM": "xterm", "COLUMNS": "120"},
    ) as process:
        os.close(theirs)
        shown = b""
        while b"0 in flight, 0.0 s of work wait or run, 0 edits done" not in shown:
            shown += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_SECONDS) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "loading the model" in text
    assert re.search(r"serving at http://127\.0\.0\.1:\d+ \(contract: ", text), repr(text)
    os.close(ours)


def test_a_terminal_that_goes_away_ends_the_server(tiny_builtin: Path, tmp_path: Path) -> None:
    """By SIGHUP, which else renews the replicas."""
    options = ("--port", "0", "--model", str(tiny_builtin), "--data-dir", str(tmp_path), *SMALL)
    arguments = (sys.executable, "-c", PROGRAM, "serve", *options, "--set", "cache.service=none")
    process_id, ours = pty.fork()
    if process_id == 0:
        os.execve(sys.executable, arguments, environment() | {"TERM": "xterm", "COLUMNS": "120"})
    shown = b""
    while b"0 in flight, 0.0 s of work wait or run, 0 edits done" not in shown:
        shown += os.read(ours, 4096)
    os.close(ours)
    _, status = os.waitpid(process_id, 0)
    assert os.WIFEXITED(status)
