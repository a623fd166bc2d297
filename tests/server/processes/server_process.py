"""`instgenie serve` as a process of its own, on the tiny model."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

PROGRAM = "from instgenie_server.cli import main; main()"
START_SECONDS = 180.0  # imports alone take 5 on an idle core, and tests have seen load averages of 30
STOP_SECONDS = 120.0
_URL = r"serving at (http://\S+) "


class ServerProcess:
    """A server that takes edits once the constructor returns; at the end of a `with` block it is killed.

    Args:
        ready: False does not wait for it.
        own_cache: True has it start a cache service, as it does by default elsewhere; else records are in its memory.
    Attributes:
        lines: what it has written to stderr so far.
    """

    def __init__(self, model: Path, data_dir: Path, *options: str, ready: bool = True, own_cache: bool = False) -> None:
        cache = () if own_cache else ("--set", "cache.service=none")
        arguments = ("--port", "0", "--model", str(model), "--data-dir", str(data_dir), *SMALL, *cache, *options)
        self.process = subprocess.Popen(
            (sys.executable, "-c", PROGRAM, "serve", *arguments),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self.lines: list[str] = []
        self._grown = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if ready:
            try:
                self.until(_URL)
            except BaseException:
                self.kill()
                raise

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Without a slash at its end; waits until it takes edits."""
        return self.until(_URL)[1]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    def log(self) -> str:
        """All that it has written to stderr."""
        return "".join(self.lines)

    def until(self, pattern: str, seconds: float = START_SECONDS) -> re.Match[str]:
        """Wait until the log holds the pattern, but not longer than that: its first match."""
        with self._grown:
            self._grown.wait_for(lambda: self._ended or re.search(pattern, self.log()), seconds)
            found = re.search(pattern, self.log())
        assert found is not None, f"no {pattern!r} in:\n{self.log()}"
        return found

    def kill(self) -> None:
        """SIGKILL; wait until the process is gone."""
        self.process.kill()
        self._wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, and do not wait."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait until the process ends by itself: its exit code."""
        return self._wait()

    def _wait(self) -> int:
        code = self.process.wait(STOP_SECONDS)
        self._reader.join(STOP_SECONDS)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._grown:
                self.lines.append(line)
                self._grown.notify_all()
        with self._grown:
            self._ended = True
            self._grown.notify_all()


# One thread: tiny tensors on several wait for each other. A given dtype: none has to be measured.
SMALL = ("--threads", "1", "--dtype", "float32")


def environment() -> dict[str, str]:
    """This process's variables without settings of a server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("INSTGENIE_")}
    return kept | {"OMP_NUM_THREADS": "1"}


def instgenie(*arguments: str | Path, without: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command of `instgenie` to its end.

    Args:
        without: modules that cannot be imported, as where they are not installed.
    """
    program = f"import sys\nfor name in {list(without)!r}: sys.modules[name] = None\n{PROGRAM}"
    return subprocess.run(
        (sys.executable, "-c", program, *map(str, arguments)),
        capture_output=True,
        text=True,
        check=False,
        timeout=START_SECONDS,
        env=environment(),
    )
