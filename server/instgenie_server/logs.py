"""Logging: structlog over the standard library's, one renderer for our events and for those of every library.

What must not be read in logs: API keys and signatures of addresses are masked in every line, whoever writes it; prompts
are shown at level debug only.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, TextIO

import structlog
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import HttpProcessingError
from structlog.typing import EventDict, Processor, WrappedLogger

from instgenie_server.access.keys import KEY_PATTERN
from instgenie_server.app_keys import ERROR_CODE, IDENTITY, REQUEST_ID
from instgenie_server.settings import LogSettings

HANDLER_NAME = "instgenie"
PROMPT_FIELDS = frozenset({"prompt", "template_prompt", "negative_prompt"})
QUIET_ROUTES = frozenset({"/healthz", "/readyz", "/metrics"})  # asked every few seconds by programs
UNMATCHED = "unmatched"
CLIENT_LEFT = 499

_SECRETS = re.compile(rf"(?P<key>{KEY_PATTERN})|(?P<sig>[?&]sig=)[A-Za-z0-9_=-]+")

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def configure_logging(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send all logging of this process to the stream, by default stderr. May be called again."""
    stream = stream or sys.stderr
    as_text = stream.isatty() if settings.format == "auto" else settings.format == "text"
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        hide_prompts,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *common,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *common],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *_renderers(as_text, stream.isatty()),
            mask_secrets,
        ],
    )
    handler = logging.StreamHandler(stream)
    handler.set_name(HANDLER_NAME)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for previous in [other for other in root.handlers if other.get_name() == HANDLER_NAME]:
        root.removeHandler(previous)
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    logging.captureWarnings(True)
    aiohttp_log = logging.getLogger("aiohttp.server")
    aiohttp_log.removeFilter(tame_bad_requests)
    aiohttp_log.addFilter(tame_bad_requests)


def tame_bad_requests(record: logging.LogRecord) -> bool:
    """Tell of bytes that are no HTTP as of any other bad request: aiohttp logs them as errors, with a traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, HttpProcessingError) or error.code >= 500:
        return True
    record.levelno, record.levelname, record.exc_info = logging.INFO, "INFO", None
    record.msg, record.args = "request could not be read: %s", (" ".join(error.message.split()),)
    return record.levelno >= logging.getLogger().level


def _renderers(as_text: bool, colors: bool) -> list[Processor]:
    if as_text:
        # Not the default traceback, which shows local variables: keys and prompts are among them.
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False, default=str)]


def hide_prompts(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Replace prompts by their length, but at level debug."""
    if event.get("level", method) != "debug":
        for name in PROMPT_FIELDS & event.keys():
            event[name] = f"({len(str(event[name]))} characters)"
    return event


def mask_secrets(_logger: WrappedLogger, _method: str, line: Any) -> str:
    """Mask API keys and signatures in a rendered line, tracebacks included."""
    return _SECRETS.sub(lambda match: f"{match['sig']}***" if match["sig"] else "ig-***", str(line))


def route_of(request: web.BaseRequest) -> str:
    """The template of the request's route, such as `/v1/edits/{id}`: paths themselves hold ids and queries secrets."""
    if not isinstance(request, web.Request):
        return UNMATCHED
    match = getattr(request, "_match_info", None)  # None of what was no HTTP: `match_info` would fail
    resource = None if match is None else match.route.resource
    return UNMATCHED if resource is None else resource.canonical


def log_request(request: web.BaseRequest, status: int, seconds: float, num_bytes: int) -> None:
    """One line for one request."""
    identity = request.get(IDENTITY)
    route = route_of(request)
    fields = {
        "method": request.method,
        "route": route,
        "status": status,
        "ms": round(1000 * seconds, 1),
        "bytes": num_bytes,
        "request_id": request.get(REQUEST_ID),
        "tenant": identity.tenant if identity else None,
        "error": request.get(ERROR_CODE),
    }
    is_quiet = route in QUIET_ROUTES and status < 400
    log.log(
        logging.DEBUG if is_quiet else logging.INFO,
        "request",
        **{name: value for name, value in fields.items() if value is not None},
    )


class AccessLogger(AbstractAccessLogger):
    """Writes aiohttp's access log as ours: `web.AppRunner(app, access_log_class=AccessLogger)`."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Called when the response is sent; `time` in seconds."""
        log_request(request, response.status, time, response.body_length)
