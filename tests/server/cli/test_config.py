"""`instgenie config show`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instgenie_server.settings_sources import load_settings
from tests.server.cli.conftest import Run

SECRET = "0123456789abcdef"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(f"port = 9000\n[auth]\nurl_secret = '{SECRET}'\nrequired = true\n")
    return path


def test_table(run: Run, file: Path) -> None:
    result = run("config", "show", "--config", file, "--set", "limits.parts=3")
    assert result.exit_code == 0, result.output
    rows = {line.split()[1]: line for line in result.stdout.splitlines() if line.startswith(("│", "|"))}
    assert "9000" in rows["port"]
    assert "file" in rows["port"]
    assert "true" in rows["auth.required"]
    assert "flag" in rows["limits.parts"]
    assert "default" in rows["limits.uploads"]
    assert "none" in rows["public_url"]
    assert SECRET not in result.output


def test_json(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTGENIE_CONFIG", str(file))
    monkeypatch.setenv("INSTGENIE_LOG__LEVEL", "error")
    result = run("config", "show", "--json")
    report = json.loads(result.stdout)
    assert report["file"] == str(file)
    assert report["settings"]["port"] == {"value": 9000, "source": "file"}
    assert report["settings"]["log.level"] == {"value": "error", "source": "environment"}
    assert report["settings"]["engine.model"] == {"value": None, "source": "default"}
    assert SECRET not in result.output


def test_toml(run: Run, file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.toml"
    hidden = run("config", "show", "--config", file, "--toml")
    assert SECRET not in hidden.output
    copy.write_text(hidden.stdout)
    assert load_settings(copy, {}, {}).port == 9000
    copy.write_text(run("config", "show", "--config", file, "--toml", "--secrets").stdout)
    assert load_settings(copy, {}, {}) == load_settings(file, {}, {})


def test_mistakes_are_told_in_one_line(run: Run, file: Path) -> None:
    file.write_text("prot = 1\n[limits]\nparts = 0\n")
    result = run("config", "show", "--config", file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"error: unknown setting prot; did you mean port? (in {file}); "
        f"limits.parts is 0, but must be at least 1 (in {file})\n"
    )


@pytest.mark.parametrize("options", [["--json", "--toml"], ["--secrets"]])
def test_options_that_exclude_each_other(run: Run, options: list[str]) -> None:
    assert run("config", "show", *options).exit_code == 2
