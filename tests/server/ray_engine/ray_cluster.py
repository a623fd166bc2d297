"""A Ray cluster on this machine: a head that runs nothing, and machines with a core each that come and go."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STOP_SECONDS = 60.0
CHILD = Path(__file__).with_name("cluster_child.py")


class RayCluster:
    """Its machines are processes of this one, which Ray takes for machines of their own.

    Attributes:
        address: where servers join it.
    """

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child
        self.address = self._said()

    def add_machine(self) -> None:
        """Another one, once the cluster knows it."""
        self._have_done("add")

    def kill_machine(self) -> None:
        """End everything that Ray runs on the last one, at once."""
        self._have_done("kill")

    def _have_done(self, command: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(f"{command}\n")
        self._child.stdin.flush()
        assert self._said() == command

    def _said(self) -> str:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        assert line, "the cluster's process ended"
        return line.strip()


@contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """A cluster that asks for a token, which processes that are started meanwhile inherit."""
    own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    before = {name: os.environ.get(name) for name in own}
    os.environ |= own
    try:
        with subprocess.Popen(
            (sys.executable, CHILD), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            try:
                yield RayCluster(child)
            finally:
                assert child.stdin is not None
                child.stdin.close()
                child.wait(STOP_SECONDS)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
