"""Defaults < TOML file < environment < flags, and what is said about mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from instgenie_server.operator_error import SettingsError
from instgenie_server.settings import Settings
from instgenie_server.settings_sources import (
    fields,
    load_settings,
    parse_assignments,
    resolve_settings,
    variable_of,
)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


def problems(toml: Path | None, flags: Mapping[str, object], environ: Mapping[str, str]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_settings(toml, flags, environ)
    return caught.value.problems


def test_nothing_given_is_the_defaults() -> None:
    assert load_settings(None, {}, {}) == Settings()


def test_each_source_goes_before_the_ones_under_it(toml: Path) -> None:
    toml.write_text("port = 1\n[limits]\nparts = 1\nuploads = 1\n[log]\nlevel = 'debug'\n")
    environ = {"INSTGENIE_PORT": "2", "INSTGENIE_LIMITS__PARTS": "2"}
    resolved = resolve_settings(toml, {"port": 3, "host": None}, environ)
    settings = resolved.settings
    assert (settings.port, settings.limits.parts, settings.limits.uploads, settings.log.level) == (3, 2, 1, "debug")
    assert settings.limits.queue_seconds == Settings().limits.queue_seconds
    names = ("port", "limits.parts", "limits.uploads", "log.level", "host", "limits.queue_seconds")
    assert [resolved.sources[name] for name in names] == ["flag", "environment", "file", "file", "default", "default"]
    assert resolved.file == toml


def test_file_may_be_named_by_the_environment(toml: Path, tmp_path: Path) -> None:
    toml.write_text("port = 1\n")
    assert load_settings(None, {}, {"INSTGENIE_CONFIG": str(toml)}).port == 1
    other = tmp_path / "other.toml"
    other.write_text("port = 2\n")
    assert load_settings(other, {}, {"INSTGENIE_CONFIG": str(toml)}).port == 2


def test_process_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTGENIE_PORT", "2")
    assert load_settings(None, {}).port == 2


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("engine.threads", "none", None),
        ("engine.threads", "3", 3),
        ("auth.required", "None", None),
        ("auth.required", "true", True),
        ("auth.required", "no", False),
        ("limits.queue_seconds", "1.5", 1.5),
        ("limits.queue_seconds", "1e3", 1000.0),
        ("engine.model", "/models/flux", Path("/models/flux")),
        ("public_url", "none", None),
    ],
)
def test_text_of_the_environment_and_of_flags(key: str, text: str, value: object) -> None:
    for settings in (load_settings(None, {}, {variable_of(key): text}), load_settings(None, {key: text}, {})):
        group, _, name = key.rpartition(".")
        assert getattr(getattr(settings, group) if group else settings, name) == value


def test_environment_can_take_back_what_the_file_sets(toml: Path) -> None:
    toml.write_text("[limits]\nrequests_per_minute = 5\n")
    settings = load_settings(toml, {}, {"INSTGENIE_LIMITS__REQUESTS_PER_MINUTE": "none"})
    assert settings.limits.requests_per_minute is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prot = 1", "unknown setting prot; did you mean port? (in {toml})"),
        ("parts = 1", "unknown setting parts; did you mean limits.parts? (in {toml})"),
        ("[limit]\nparts = 1", "unknown setting limit (in {toml})"),
        ("[limits]\npart = 1", "unknown setting limits.part; did you mean limits.parts? (in {toml})"),
        ("limits = 1", "limits is a group of settings: write it as [limits] (in {toml})"),
        ("[limits]\nparts = 0", "limits.parts is 0, but must be at least 1 (in {toml})"),
        ("[limits]\nparts = 1.5", "limits.parts is 1.5, but must be a whole number (in {toml})"),
        ("[limits]\nparts = true", "limits.parts is true, but must be a number (in {toml})"),
        ("[limits]\nqueue_seconds = nan", "limits.queue_seconds is nan, but must be finite (in {toml})"),
        ("[port]\nx = 1", "port is {{'x': 1}}, but must be a whole number (in {toml})"),
        ("[log]\nformat = 'xml'", "log.format is 'xml', but must be one of auto, json or text (in {toml})"),
        ("host = 3", "host is 3, but must be text (in {toml})"),
        ("[engine]\nmodel = 3", "engine.model is 3, but must be a path (in {toml})"),
    ],
)
def test_mistakes_in_the_file(toml: Path, text: str, expected: str) -> None:
    toml.write_text(text)
    assert problems(toml, {}, {}) == (expected.format(toml=toml),)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("INSTGENIE_PROT", "1", "unknown environment variable INSTGENIE_PROT; did you mean INSTGENIE_PORT?"),
        ("INSTGENIE_Port", "1", "unknown environment variable INSTGENIE_Port; did you mean INSTGENIE_PORT?"),
        ("INSTGENIE_LIMITS_PARTS", "1", "did you mean INSTGENIE_LIMITS__PARTS?"),
        ("INSTGENIE_CONFIGS", "1", "did you mean INSTGENIE_CONFIG?"),
        ("INSTGENIE_QQQQQQQQQQQQQQQQ", "1", "unknown environment variable INSTGENIE_QQQQQQQQQQQQQQQQ"),
        ("INSTGENIE_PORT", "65536", "port is '65536', but must be at most 65535 (in INSTGENIE_PORT)"),
        ("INSTGENIE_PORT", "", "port is '', but must be a whole number (in INSTGENIE_PORT)"),
        ("INSTGENIE_AUTH__REQUIRED", "maybe", "must be true or false"),
        ("INSTGENIE_RETENTION__AGE_SECONDS", "0", "must be more than 0"),
        ("INSTGENIE_RETENTION__AGE_SECONDS", "inf", "must be finite"),
        ("INSTGENIE_HOST", "a b", "host is 'a b', but must be an IP address or a host name"),
        ("INSTGENIE_DATA_DIR", "/a\udcff", "data_dir is not valid UTF-8"),
        ("INSTGENIE_PORT", "x" * 1000, "port is '" + "x" * 79 + "..., but must be a whole number"),
    ],
)
def test_mistakes_in_the_environment(name: str, value: str, expected: str) -> None:
    (problem,) = problems(None, {}, {name: value})
    assert expected in problem


def test_variables_of_others_are_ignored() -> None:
    assert load_settings(None, {}, {"PATH": "/bin", "MY_INSTGENIE_PORT": "x"}) == Settings()


def test_mistakes_in_flags() -> None:
    assert problems(None, {"limits.part": 1, "port": -1}, {}) == (
        "unknown setting limits.part; did you mean limits.parts? (in a flag)",
        "port is -1, but must be at least 0 (in a flag)",
    )


def test_all_mistakes_are_told_together(toml: Path) -> None:
    toml.write_text("prot = 1\n[limits]\nparts = 0\n")
    assert len(problems(toml, {"host": "a b"}, {"INSTGENIE_X": "1"})) == 4


def test_secrets_are_not_told() -> None:
    (problem,) = problems(None, {}, {"INSTGENIE_AUTH__URL_SECRET": "hunter2"})
    assert problem == (
        "auth.url_secret is (not shown), but must have at least 16 characters (in INSTGENIE_AUTH__URL_SECRET)"
    )


def test_files_that_cannot_be_read(toml: Path, tmp_path: Path) -> None:
    assert problems(toml, {}, {}) == (f"{toml} cannot be read: No such file or directory",)
    assert problems(None, {}, {"INSTGENIE_CONFIG": str(toml)}) == (f"{toml} cannot be read: No such file or directory",)
    assert "cannot be read" in problems(tmp_path, {}, {})[0]
    toml.write_text("port =\n")
    assert f"{toml} is not TOML: Invalid value" in problems(toml, {}, {})[0]
    toml.write_bytes(b"host = '\xff'\n")
    assert f"{toml} is not TOML" in problems(toml, {}, {})[0]


def test_assignments() -> None:
    assert parse_assignments(["limits.parts=3", "public_url=https://x?a=b"]) == {
        "limits.parts": "3",
        "public_url": "https://x?a=b",
    }
    with pytest.raises(SettingsError, match=r"limits\.parts has no value: write KEY=VALUE"):
        parse_assignments(["limits.parts"])


def test_every_setting_is_described() -> None:
    assert [key for key, field in fields().items() if not field.description] == []
