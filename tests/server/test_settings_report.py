"""Settings as rows and as a TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie_server.settings import AuthSettings, CacheSettings, EngineSettings, LimitSettings, LogSettings, Settings
from instgenie_server.settings_report import MASK, describe, to_toml
from instgenie_server.settings_sources import fields, load_settings, resolve_settings

SECRET = "0123456789abcdef"

# "none" stands for no value, and what has no UTF-8 cannot be written to a file.
text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda value: value.strip().lower() != "none"
)
paths = text.map(lambda value: f"/{value}")
seconds = st.floats(0, exclude_min=True, allow_infinity=False)
counts = st.integers(1, 2**70)


def model(kind: type[Any], **values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional=values).map(kind.model_validate)


all_settings = model(
    Settings,
    host=st.sampled_from(["127.0.0.1", "0.0.0.0", "::", "localhost", "a.example"]),
    port=st.integers(0, 65_535),
    data_dir=paths,
    public_url=st.none() | st.sampled_from(["https://example.org", "http://x:1/base"]),
    engine=model(
        EngineSettings,
        model=st.none() | paths,
        dtype=st.sampled_from(["auto", "float32"]),
        threads=st.none() | st.integers(1, 1024),
        devices=st.none() | st.lists(st.sampled_from(["cpu", "cuda:0", "cuda:1"]), min_size=1).map(tuple),
    ),
    cache=model(
        CacheSettings,
        folder=st.none() | paths,
        service=st.sampled_from([None, "own", "unix:/a/b.sock"]),
        secret=st.none() | text.map(lambda value: value + SECRET),
        host_bytes=st.none() | st.integers(0, 2**70),
        codec=st.sampled_from(["raw", "fp8"]),
        drift=st.floats(0, 0.9),
    ),
    limits=model(
        LimitSettings,
        parts=counts,
        queue_seconds=seconds,
        decode_seconds=seconds,
        requests_per_minute=st.none() | counts,
    ),
    auth=model(
        AuthSettings,
        required=st.none() | st.booleans(),
        url_secret=st.none() | text.map(lambda value: value + SECRET),
        url_seconds=seconds,
    ),
    log=model(LogSettings, level=st.sampled_from(["debug", "error"]), format=st.sampled_from(["auto", "text"])),
)


@given(settings=all_settings)
def test_file_loads_back_to_the_same_settings(settings: Settings) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "settings.toml"
        file.write_text(to_toml(settings, secrets=True), encoding="utf-8")
        assert load_settings(file, {}, {}) == settings


@given(settings=all_settings)
def test_file_without_secrets_loads_back_to_the_rest(settings: Settings) -> None:
    auth = settings.auth.model_copy(update={"url_secret": None})
    cache = settings.cache.model_copy(update={"secret": None})
    without = settings.model_copy(update={"auth": auth, "cache": cache})
    with TemporaryDirectory() as folder:
        file = Path(folder) / "settings.toml"
        file.write_text(to_toml(settings), encoding="utf-8")
        assert load_settings(file, {}, {}) == without


def test_file_of_the_defaults_lists_every_setting() -> None:
    lines = to_toml(Settings()).splitlines()
    names = [line.lstrip("# ").partition(" = ")[0] for line in lines if " = " in line]
    assert names == [key.rpartition(".")[2] for key in fields()]
    uncommented = "\n".join(line.removeprefix("# ") if " = " in line else line for line in lines)
    assert tomllib.loads(uncommented)["engine"]["threads"] == "none"


def test_no_value_is_written_where_it_is_not_the_default() -> None:
    text = to_toml(Settings(cache=CacheSettings(folder=None, service=None)))
    cache = tomllib.loads(text)["cache"]
    assert (cache["folder"], cache["service"]) == ("none", "none")
    assert "host_bytes" not in cache


def test_rows_have_sources_and_no_secrets() -> None:
    environ = {"INSTGENIE_AUTH__URL_SECRET": SECRET}
    resolved = resolve_settings(None, {"data_dir": "/data"}, environ)
    rows = {row.key: row for row in describe(resolved)}
    assert list(rows) == list(fields())
    assert (rows["data_dir"].value, rows["data_dir"].source) == ("/data", "flag")
    assert (rows["auth.url_secret"].value, rows["auth.url_secret"].source) == (MASK, "environment")
    assert (rows["port"].value, rows["port"].source) == (8731, "default")
    assert SECRET not in repr(rows) + to_toml(resolved.settings)


def test_mask_cannot_be_taken_for_a_secret() -> None:
    with pytest.raises(ValueError, match="url_secret"):
        AuthSettings.model_validate({"url_secret": MASK})
