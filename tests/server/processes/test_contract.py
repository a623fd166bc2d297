"""What the server answers is what its contract says, whatever it is asked: a short run of `scripts/fuzz`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.server.processes.fuzz import fuzz, logged_failures
from tests.server.processes.server_process import ServerProcess


@pytest.mark.timeout(300)
def test_contract(tiny_builtin: Path, tmp_path: Path) -> None:
    with ServerProcess(tiny_builtin, tmp_path) as server:
        code, report = fuzz(server.url, "--max-examples", "4", "--seed", "1", "--request-timeout", "30")
        assert code == 0, report
        assert re.search(r"[1-9][0-9]+ generated", report), report
        assert logged_failures(server) == []
