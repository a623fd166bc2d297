"""`python -m instgenie_cache` as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

WAIT_SECONDS = 60.0


class CacheProcess:
    """A service that takes clients once the constructor returns; at the end of a `with` block it is killed."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.socket = folder / "cache.sock"
        self.process = subprocess.Popen(
            command(folder, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
        assert self.process.stdout is not None
        self.ready_line = self.process.stdout.readline()
        if not self.ready_line:
            code, log = self.end()
            raise AssertionError(f"the service ended with {code} before it was ready: {log}")

    def __enter__(self) -> CacheProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def stop(self) -> tuple[int, str]:
        """SIGTERM: the exit code and the log."""
        self.process.send_signal(signal.SIGTERM)
        return self.end()

    def kill(self) -> None:
        """SIGKILL; wait until the process is gone."""
        self.process.kill()
        self.end()

    def end(self) -> tuple[int, str]:
        """Wait until it ends: the exit code and the log."""
        if self.process.stdout is not None and self.process.stdout.closed:
            return self.process.returncode, ""
        _, log = self.process.communicate(timeout=WAIT_SECONDS)
        return self.process.returncode, log

    def rss_bytes(self) -> int:
        """Its memory, the arena's touched pages included."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def command(folder: Path, *options: str) -> tuple[str, ...]:
    """What starts a small service."""
    small = ("--host-bytes", "32MiB", "--disk-bytes", "64MiB")
    return (sys.executable, "-W", "error", "-m", "instgenie_cache", "--folder", str(folder), *small, *options)


def environment() -> dict[str, str]:
    """This process's variables without settings of a service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("INSTGENIE_")}


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A service that is expected not to start."""
    return subprocess.run(
        command(folder, *options), capture_output=True, text=True, check=False, timeout=WAIT_SECONDS, env=environment()
    )
