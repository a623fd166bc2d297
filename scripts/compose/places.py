"""Paths and addresses of containers, and those that stand for them on this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path


class Places:
    """Replaces in texts what only a container would have: its paths, other services' names, its ports."""

    def __init__(self, paths: Mapping[str, Path], names: Mapping[str, str], ports: Mapping[int, int]) -> None:
        """Args:
        paths: absolute ones of the container.
        names: of hosts; an address that stands for all of the container is among them.
        ports: those of containers to those of this machine.
        """
        self._here = {path: str(own) for path, own in paths.items()}
        self._here |= names
        self._here |= {str(port): str(own) for port, own in ports.items()}
        words = sorted(self._here, reverse=True)  # of two that begin alike, the longer one first
        self._pattern = re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, words)) or '(?!)'})(?![\w.-])")

    def here(self, text: str) -> str:
        """The text as it is for a process of this machine."""
        return self._pattern.sub(lambda match: self._here[match[0]], text)
