"""Logging is of the whole process: what a test sets is put back."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from instgenie_server.logs import HANDLER_NAME, configure_logging
from instgenie_server.settings import LogSettings


class LogStream(io.StringIO):
    """What was logged."""

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """JSON lines, of one event or all."""
        entries = [json.loads(line) for line in self.getvalue().splitlines()]
        return [entry for entry in entries if event is None or entry["event"] == event]


@contextmanager
def logging_to_stream(**settings: Any) -> Iterator[LogStream]:
    """Configured logging, as JSON if the settings say nothing else."""
    root = logging.getLogger()
    level = root.level
    stream = LogStream()
    configure_logging(LogSettings(**{"format": "json", **settings}), stream)
    try:
        yield stream
    finally:
        for handler in [one for one in root.handlers if one.get_name() == HANDLER_NAME]:
            root.removeHandler(handler)
        root.setLevel(level)
        logging.captureWarnings(False)
        structlog.reset_defaults()
