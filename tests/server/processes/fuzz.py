"""Requests drawn from the contract, at a server of the tiny model: `scripts/fuzz MINUTES`.

What schemathesis reports is a failure, and so is anything that the server logs as one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.server.processes.server_process import ServerProcess
from tests.tiny_models import save_tiny_builtin

SCHEMATHESIS = "from schemathesis.cli import schemathesis; schemathesis()"
CONFIG = Path(__file__).with_name("schemathesis.toml")
ROOT = Path(__file__).parents[3]


def fuzz(url: str, *options: str) -> tuple[int, str]:
    """Run schemathesis over all of the contract: its exit code, and what it says."""
    command = (
        *(sys.executable, "-c", SCHEMATHESIS, "--config-file", str(CONFIG), "run", f"{url}/openapi.json"),
        *("--continue-on-failure", "--generation-database", "none", "--no-color", "--warnings", "off", *options),
    )
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "tests.server.processes.fuzz_pictures", "COLUMNS": "120"}
    ran = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=environment, cwd=ROOT
    )
    return ran.returncode, ran.stdout


def logged_failures(server: ServerProcess) -> list[str]:
    """Lines of the server's log that tell of a failure."""
    failures = []
    for line in server.lines:
        if line.startswith("{"):
            if json.loads(line)["level"] in ("error", "critical"):
                failures.append(line)
        elif not line.startswith("serving at "):
            failures.append(line)
    return failures


def parse(arguments: list[str]) -> tuple[float, list[str]]:
    """Minutes, and what comes after --. argparse would take the first of those for the minutes where none are given."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    usage = "%(prog)s [-h] [MINUTES] [-- options of `schemathesis run`]"
    parser = argparse.ArgumentParser(prog="scripts/fuzz", usage=usage, description=__doc__)
    parser.add_argument("minutes", metavar="MINUTES", type=float, nargs="?", default=10.0, help="default: %(default)g")
    return parser.parse_args(arguments[:at]).minutes, arguments[at + 1 :]


def main() -> int:
    minutes, options = parse(sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        model = save_tiny_builtin(Path(folder) / "model")
        with ServerProcess(model, Path(folder) / "data") as server:
            seconds = max(1, round(60 * minutes))
            code, report = fuzz(server.url, "--max-time", str(seconds), *options)
            failures = logged_failures(server)
    sys.stdout.write(report)
    sys.stdout.writelines(failures)
    return code or int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
