"""Lines of a child process in the server's log."""

from __future__ import annotations

import asyncio
import json

import pytest

from instgenie_server.processes.child_log import MAX_LINE_BYTES, read_lines, relay
from tests.server.logging_state import logging_to_stream


async def lines_of(*chunks: bytes) -> list[str]:
    stream = asyncio.StreamReader(limit=100)  # which `readline` would fail at
    for chunk in chunks:
        stream.feed_data(chunk)
    stream.feed_eof()
    lines: list[str] = []
    await read_lines(stream, lines.append)
    return lines


async def test_lines_are_told_whole() -> None:
    assert await lines_of(b"one\ntw", b"o\n\nthree") == ["one", "two", "", "three"]


async def test_what_is_no_text_is_told_as_well_as_it_can_be() -> None:
    assert await lines_of(b"\xff\n") == ["\ufffd"]


async def test_lines_without_an_end_are_cut() -> None:
    lines = await lines_of(b"x" * (3 * MAX_LINE_BYTES), b"\nend\n")
    assert max(map(len, lines)) <= 2 * MAX_LINE_BYTES
    assert "".join(lines) == "x" * (3 * MAX_LINE_BYTES) + "end"


def test_a_line_of_the_service_keeps_its_level_and_logger() -> None:
    fields = {
        "event": "it failed",
        "level": "error",
        "logger": "instgenie_cache.service.cache_service",
        "exception": "Traceback",
    }
    with logging_to_stream() as stream:
        relay(json.dumps(fields | {"timestamp": "then"}), "instgenie_cache")
    (line,) = stream.lines()
    assert line.items() >= fields.items()
    assert line["timestamp"] != "then"


def test_lines_below_the_level_are_not_told() -> None:
    with logging_to_stream(level="warning") as stream:
        relay(
            json.dumps({"event": "listening", "level": "info", "logger": "instgenie_cache.service.cache_service"}),
            "instgenie_cache",
        )
    assert not stream.lines()


@pytest.mark.parametrize(
    "line",
    ["error: no room", "[1]", "{}", '{"level": "odd"}', '{"level": null}', "[" * 100_000, "{%s %d", '"text"'],
    ids=lambda line: line[:20],
)
def test_anything_else_is_a_warning(line: str) -> None:
    with logging_to_stream() as stream:
        relay(line, "instgenie_cache")
    (told,) = stream.lines()
    assert (told["event"], told["level"], told["logger"]) == (line, "warning", "instgenie_cache")


@pytest.mark.parametrize("line", ["", "  "])
def test_empty_lines_are_not_told(line: str) -> None:
    with logging_to_stream() as stream:
        relay(line, "instgenie_cache")
    assert not stream.lines()
