"""Settings of the service: defaults, where they come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from instgenie_cache.default_folder import MAX_DEFAULT_DISK_BYTES
from instgenie_cache.machine import free_disk_bytes, memory_bytes
from instgenie_cache.service.service_settings_sources import SettingsError, load_settings

SECRET = {"name": "a", "secret": "0123456789abcdef"}


def test_defaults_follow_the_machine(tmp_path: Path) -> None:
    settings = load_settings(flags={"folder": tmp_path}, environ={})
    assert settings.host_bytes == memory_bytes() // 4
    assert 0 < settings.disk_bytes <= MAX_DEFAULT_DISK_BYTES
    assert settings.socket == tmp_path / "cache.sock"
    assert (settings.mode, settings.tcp, settings.metrics_port) == (0o600, None, None)


def test_a_container_that_may_use_less_memory_counts(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("1000000\n")
    assert memory_bytes(limit) == 1_000_000
    limit.write_text("max\n")
    assert memory_bytes(limit) > 1_000_000


def test_the_disk_of_a_folder_that_is_not_there_yet_is_that_of_its_parent(tmp_path: Path) -> None:
    assert free_disk_bytes(tmp_path / "a" / "b") > 0


def test_flags_go_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "cache.toml"
    file.write_text('host_bytes = "4MiB"\ndisk_bytes = 1\nmax_connections = 1\nmetrics_port = 9000\n')
    environ = {"INSTGENIE_CACHE_DISK_BYTES": "2", "INSTGENIE_CACHE_MAX_CONNECTIONS": "2", "INSTGENIE_OTHER": "x"}
    settings = load_settings(file, {"max_connections": 3, "tcp": None, "metrics_port": "none"}, environ)
    assert (settings.host_bytes, settings.disk_bytes, settings.max_connections) == (4 << 20, 2, 3)
    assert settings.metrics_port is None
    assert load_settings(None, {}, environ | {"INSTGENIE_CACHE_CONFIG": str(file)}).host_bytes == 4 << 20


def test_a_secret_may_be_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("0123456789abcdef\n")
    given = {"name": "a", "secret_file": str(tmp_path / "secret"), "namespace": "tenant"}
    settings = load_settings(flags={"tcp": "127.0.0.1:0", "secrets": [given]}, environ={})
    shared = settings.shared_secrets()["a"]
    assert (shared.secret, shared.namespace) == (b"0123456789abcdef", "tenant")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"colour": "red"}, "colour: there is no such setting (in a flag)"),
        ({"max_connections": 0}, "max_connections: input should be greater than or equal to 1 (in a flag)"),
        ({"host_bytes": "much"}, "host_bytes: could not"),
        ({"folder": 5, "sync": "x"}, "folder: "),
        ({"socket": "/" + "a" * 110}, "at most 107 bytes"),
        ({"socket_mode": "888"}, "octal digits"),
        ({"tcp": "127.0.0.1:1"}, "tcp needs secrets"),
        ({"tcp": "/a/path", "secrets": [SECRET]}, "must be host:port"),
        ({"secrets": [{"name": "a"}]}, "either `secret` or `secret_file`"),
        ({"secrets": [SECRET, SECRET]}, "two secrets have the same name"),
        ({"secrets": [{"name": "a", "secret_file": "/no/such/file"}]}, "/no/such/file cannot be read"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(flags: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(flags=flags, environ={})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_secret_is_never_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(flags={"secrets": [{"name": "a", "secret": "tooshort"}], "sync": "x"}, environ={})
    assert "tooshort" not in str(caught.value)
    assert SECRET["secret"] not in repr(load_settings(flags={"secrets": [SECRET]}, environ={}))


def test_variables_of_programs_that_use_the_cache_are_not_its_own() -> None:
    environ = {"INSTGENIE_CACHE__FOLDER": "/elsewhere", "INSTGENIE_CACHE_MAX_CONNECTIONS": "3"}
    settings = load_settings(environ=environ)
    assert settings.max_connections == 3
    assert settings.folder != Path("/elsewhere")


@pytest.mark.parametrize(("flags", "environ"), [({"colour": "red"}, {}), ({}, {"INSTGENIE_CACHE_COLOUR": "red"})])
def test_who_names_an_unknown_setting_is_told_the_known_ones(flags: dict[str, object], environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"the settings are folder, host_bytes, .*warm_start.*log_format$"):
        load_settings(flags=flags, environ=environ)


def test_the_known_settings_are_not_told_where_a_value_is_wrong() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(flags={"sync": "x"}, environ={})
    assert "the settings are" not in str(caught.value)


def test_unknown_variables_and_secrets_in_the_environment_are_refused() -> None:
    with pytest.raises(SettingsError, match="unknown environment variable INSTGENIE_CACHE_COLOUR"):
        load_settings(environ={"INSTGENIE_CACHE_COLOUR": "red"})
    with pytest.raises(SettingsError, match="secrets come from the TOML file"):
        load_settings(environ={"INSTGENIE_CACHE_SECRETS": "[]"})


@pytest.mark.parametrize("content", [b"= 1", b"\xff"])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "cache.toml"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match="is not TOML"):
        load_settings(file, environ={})
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path / "none.toml", environ={})
