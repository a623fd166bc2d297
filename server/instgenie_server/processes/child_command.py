"""What the server starts as a child."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_SERVER_PREFIX = "INSTGENIE_"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildCommand:
    """A module, its settings, and how long its start and its end may take.

    It tells that it is ready by a line of its standard output, `serving at` and its address; it ends at SIGTERM.

    Attributes:
        name: in log lines, such as "cache service".
        labels: in log lines, those of the child too: they tell it from others of that name.
        logger: of lines of its standard error that are no log lines.
        options: of its command line.
        settings: environment variables; secrets may be among them, so they are no part of its representation.
        ready_seconds: to become ready in; then it is killed.
        stop_seconds: to end in after SIGTERM; then it is killed.
        attempts: starts that may fail before the first success.
        final_codes: exit codes of a start that would fail again in the same way: none is tried after it.
    """

    name: str
    module: str
    logger: str
    settings: Mapping[str, str] = field(repr=False)
    ready_seconds: float
    stop_seconds: float
    attempts: int
    final_codes: frozenset[int] = frozenset()
    options: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def arguments(self) -> Sequence[str]:
        """With -P, so that nothing is imported from the folder that the server was started in."""
        child = "instgenie_server.processes.child"
        return (sys.executable, "-P", "-m", child, f"{self.stop_seconds:g}", self.module, *self.options)

    def environment(self, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
        """This process's variables, but for its own settings, and those of the child."""
        kept = {name: value for name, value in environ.items() if not name.upper().startswith(_SERVER_PREFIX)}
        return {**kept, **self.settings}
