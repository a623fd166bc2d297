"""The command as users run it: a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import instgenie
from instgenie_server.cli.app import SERVER_EXTRA


def instgenie_command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the entry point with arguments."""
    program = "from instgenie_server.cli import main; main()"
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)


def test_version() -> None:
    result = instgenie_command("--version")
    assert (result.returncode, result.stdout) == (0, f"instgenie {instgenie.__version__}\n")


def test_help_imports_no_engine() -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from instgenie_server.cli.app import app\n"
        "result = CliRunner().invoke(app, ['edit', '--help'])\n"
        "assert result.exit_code == 0 and '--mask-mode' in result.output, result.output\n"
        "print(*sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.stdout, result.returncode) == ("\n", 0), result.stderr


def test_edit_says_one_line(tiny_builtin: Path, image_path: Path, mask_path: Path, tmp_path: Path) -> None:
    """Libraries' hints and progress bars would be seen here."""
    out = tmp_path / "out.png"
    result = instgenie_command(
        *("edit", image_path, "--mask", mask_path, "--prompt", "a red apple", "-o", out),
        *("--model", tiny_builtin, "--threads", "1", "--timings"),
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith(f"wrote {out}")
    assert result.stderr.count("\n") == 1
    assert json.loads(result.stdout)["steps"] == 4


def test_bad_input_says_one_line(mask_path: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    out = tmp_path / "out.png"
    result = instgenie_command("edit", text, "--mask", mask_path, "--prompt", "x", "-o", out)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"error: image: {text}: not a PNG, JPEG or WebP picture\n"


def test_what_is_told_to_be_missing_is_what_the_extra_brings() -> None:
    pyproject = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    brought = {re.split(r"[>;]", line)[0] for line in pyproject["project"]["optional-dependencies"]["server"]}
    assert {name.replace("_", "-") for name in SERVER_EXTRA} == brought
