"""The command line of `scripts/fuzz`, and what it sends."""

from __future__ import annotations

import pytest

from tests.server.processes.fuzz import parse


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", (10.0, [])),
        ("0.5", (0.5, [])),
        ("--", (10.0, [])),
        ("-- --phases examples", (10.0, ["--phases", "examples"])),
        ("3 -- --phases examples", (3.0, ["--phases", "examples"])),
        ("3 -- a -- 5", (3.0, ["a", "--", "5"])),
    ],
)
def test_options_come_after_two_dashes(arguments: str, expected: tuple[float, list[str]]) -> None:
    assert parse(arguments.split()) == expected


@pytest.mark.parametrize("arguments", ["x", "--phases examples", "1 2"])
def test_other_arguments_are_refused(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments.split())
    assert "scripts/fuzz [-h] [MINUTES] [-- options" in capsys.readouterr().err
