"""What the service logs: lines of JSON, or of text where a person reads along."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

TEXT = "%(asctime)s [%(levelname)s] %(name)s: %(message)s"


class JsonLines(logging.Formatter):
    """One JSON object a line: event, level, logger, timestamp (UTC) and, of an exception, its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        fields = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def configure_logging(level: str, form: Literal["auto", "json", "text"], stream: TextIO | None = None) -> None:
    """Send all logging of this process to the stream, by default stderr.

    Args:
        form: auto is text on a terminal, else JSON lines.
    """
    stream = stream or sys.stderr
    as_text = stream.isatty() if form == "auto" else form == "text"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(TEXT) if as_text else JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
