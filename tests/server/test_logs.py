"""Log lines."""

from __future__ import annotations

import io
import logging
from datetime import datetime

import pytest
import structlog
from aiohttp.http_exceptions import BadHttpMessage

from instgenie_server.logs import configure_logging
from instgenie_server.settings import LogSettings
from tests.server.logging_state import logging_to_stream

KEY = "ig-0123abcd." + "s3cr3t-_" * 4


def test_our_events_and_those_of_libraries_look_the_same() -> None:
    with logging_to_stream() as stream:
        structlog.get_logger("ours").info("started", port=1)
        logging.getLogger("theirs").warning("%d of %d", 1, 2, extra={"port": 2})
    ours, theirs = stream.lines()
    assert (ours["event"], ours["level"], ours["logger"], ours["port"]) == ("started", "info", "ours", 1)
    assert (theirs["event"], theirs["level"], theirs["logger"], theirs["port"]) == ("1 of 2", "warning", "theirs", 2)
    for line in (ours, theirs):
        assert datetime.fromisoformat(line["timestamp"]).utcoffset() is not None


def test_level() -> None:
    with logging_to_stream(level="warning") as stream:
        for logger in (structlog.get_logger("ours"), logging.getLogger("theirs")):
            logger.info("quiet")
            logger.warning("loud")
    assert [line["event"] for line in stream.lines()] == ["loud", "loud"]


def test_context_is_in_every_line() -> None:
    with logging_to_stream() as stream, structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger("ours").info("a")
        logging.getLogger("theirs").info("b")
    assert [line["request_id"] for line in stream.lines()] == ["r1", "r1"]


@pytest.mark.parametrize("format_", ["json", "text"])
def test_keys_and_signatures_are_masked_wherever_they_stand(format_: str) -> None:
    with logging_to_stream(format=format_, level="debug") as stream:
        log = structlog.get_logger("ours")
        log.info("key", key=KEY, header=f"Bearer {KEY}", nested={"keys": [KEY]}, url="/image?exp=1&sig=AbC-_9")
        logging.getLogger("theirs").error("bad key %s", KEY)
        secret_local = KEY
        try:
            raise ValueError(f"key {secret_local}")
        except ValueError:
            log.exception("failed")
    text = stream.getvalue()
    assert "s3cr3t" not in text
    assert "AbC" not in text
    assert "ig-***" in text
    assert "sig=***" in text
    assert "ValueError" in text


def test_prompts_are_for_debugging_only() -> None:
    with logging_to_stream(level="debug") as stream:
        log = structlog.get_logger("ours")
        log.info("info", prompt="a red apple", template_prompt="")
        log.debug("debug", prompt="a red apple")
        logging.getLogger("theirs").info("info", extra={"prompt": "a red apple"})
        logging.getLogger("theirs").debug("debug", extra={"prompt": "a red apple"})
    prompts = [(line["event"], line["prompt"]) for line in stream.lines()]
    assert prompts == [
        ("info", "(11 characters)"),
        ("debug", "a red apple"),
        ("info", "(11 characters)"),
        ("debug", "a red apple"),
    ]


def test_tracebacks_show_no_variables() -> None:
    with logging_to_stream(format="text") as stream:
        prompt = "a red " + "apple"
        try:
            raise ValueError(f"{len(prompt)} is wrong")
        except ValueError:
            structlog.get_logger("ours").exception("failed")
    assert "11 is wrong" in stream.getvalue()
    assert "a red apple" not in stream.getvalue()


def test_json_lines_have_tracebacks_in_one_line() -> None:
    with logging_to_stream() as stream:
        try:
            raise ValueError("x\ny")
        except ValueError:
            logging.getLogger("theirs").exception("failed")
    (line,) = stream.lines()
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: x\ny")


def test_auto_is_text_on_a_terminal_only() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with logging_to_stream(format="auto") as file:
        structlog.get_logger("ours").info("to a file")
        configure_logging(LogSettings(), terminal)
        structlog.get_logger("ours").info("to a terminal")
    assert [line["event"] for line in file.lines()] == ["to a file"]
    assert "to a terminal" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")


@pytest.mark.parametrize(("level", "events"), [("info", ["request could not be read: no such header"]), ("error", [])])
def test_bytes_that_are_no_http_are_no_error(level: str, events: list[str]) -> None:
    with logging_to_stream(level=level) as stream:
        try:
            raise BadHttpMessage("no\n such  header")
        except BadHttpMessage:
            logging.getLogger("aiohttp.server").exception("Error handling request")
    assert [line["event"] for line in stream.lines()] == events
    assert not any("exception" in line for line in stream.lines())


def test_failures_of_handlers_stay_errors() -> None:
    with logging_to_stream() as stream:
        try:
            raise ValueError("ours")
        except ValueError:
            logging.getLogger("aiohttp.server").exception("Error handling request")
    (line,) = stream.lines()
    assert line["level"] == "error"
    assert "ValueError" in line["exception"]
