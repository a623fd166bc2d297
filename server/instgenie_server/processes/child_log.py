"""What a child process writes, told line by line in the server's log."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType

import structlog

MAX_LINE_BYTES = 64 << 10

_LEVELS = logging.getLevelNamesMapping()


async def read_lines(stream: asyncio.StreamReader, tell: Callable[[str], None]) -> None:
    """Tell every line until the stream ends; longer ones than `MAX_LINE_BYTES` come in pieces.

    It never stops reading before, since a child whose pipe is full stands still.
    """
    rest = b""
    while chunk := await stream.read(MAX_LINE_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) >= MAX_LINE_BYTES:
            lines, rest = [*lines, rest], b""
        for line in lines:
            tell(line.decode(errors="replace"))
    if rest:
        tell(rest.decode(errors="replace"))


def relay(line: str, default_logger: str, labels: Mapping[str, str] = MappingProxyType({})) -> None:
    """Log a line of a child's log as it was meant, and any other text as a warning of the default logger.

    Args:
        labels: that tell the child from others.
    """
    if not line.strip():
        return
    try:
        fields = json.loads(line)
        level, event, logger = _LEVELS[fields["level"].upper()], fields["event"], fields["logger"]
        more = {"exception": fields["exception"]} if "exception" in fields else {}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        level, event, logger, more = logging.WARNING, line.rstrip(), default_logger, {}
    structlog.get_logger(str(logger)).log(level, str(event), **labels, **more)
