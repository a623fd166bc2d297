"""Ray is an extra, and slow to import: nothing but `--engine ray` asks for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.server.processes.server_process import environment, instgenie


def test_a_server_imports_no_ray() -> None:
    program = (
        "import sys, instgenie_server.app, instgenie_server.cli.serve, instgenie_server.fleet.open_fleet\n"
        "sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run((sys.executable, "-c", program), env=environment(), check=False).returncode == 0


def test_where_ray_is_not_installed_it_says_how_to_install_it(tmp_path: Path) -> None:
    ran = instgenie("serve", "--engine", "ray", "--port", "0", "--data-dir", tmp_path, without=["ray"])
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1] == (
        "error: engine.kind: ray is not installed: pip install -e '.[server,ray]' in the repository"
    )
