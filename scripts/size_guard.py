"""Fail when a Python file is longer than 600 lines; print the median length of the package files."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

MAX_LINES = 600
PACKAGES = ("instgenie", "cache", "server")


def python_files() -> list[Path]:
    """The files git knows or would add; one that is deleted but not yet committed is left out."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.py"],
        check=True,
        capture_output=True,
        text=True,
    )
    return [path for path in map(Path, filter(None, listed.stdout.split("\0"))) if path.exists()]


def main() -> int:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    too_long = {path: count for path, count in lines.items() if count > MAX_LINES}
    for path, count in sorted(too_long.items()):
        print(f"{path}: {count} lines, {MAX_LINES} at most")
    package_lines = [count for path, count in lines.items() if path.parts[0] in PACKAGES and count]
    median = statistics.median(package_lines) if package_lines else 0
    print(f"{len(package_lines)} package files, median {median:g} lines, longest {max(package_lines, default=0)}")
    return 1 if too_long else 0


if __name__ == "__main__":
    sys.exit(main())
