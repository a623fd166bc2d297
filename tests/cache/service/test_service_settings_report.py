"""All settings of the service as a TOML file."""

from __future__ import annotations

from pathlib import Path

import pytest

from instgenie_cache.service.service_settings import ServiceSettings
from instgenie_cache.service.service_settings_report import settings_toml
from instgenie_cache.service.service_settings_sources import load_settings

SECRET = {"name": 'gpu "1"', "secret": "0123456789abcdef"}
CHANGED: dict[str, object] = {
    "folder": '/a "folder"\\of\x7f\nrecords',
    "host_bytes": "3MiB",
    "disk_bytes": 0,
    "warm_start": False,
    "sync": "interval",
    "sync_seconds": 0.25,
    "object_url": "s3://bucket/prefix",
    "metrics_port": 9000,
}


@pytest.mark.parametrize("flags", [{}, CHANGED])
def test_it_loads_back_to_the_same(tmp_path: Path, flags: dict[str, object]) -> None:
    settings = load_settings(flags={"folder": tmp_path} | flags, environ={})
    file = tmp_path / "cache.toml"
    file.write_text(settings_toml(settings))
    assert load_settings(file, environ={}) == settings


def test_it_has_all_settings_and_what_they_mean(tmp_path: Path) -> None:
    lines = settings_toml(load_settings(flags={"folder": tmp_path}, environ={})).splitlines()
    for name, field in ServiceSettings.model_fields.items():
        number = next(number for number, line in enumerate(lines) if line.startswith(f"{name} = "))
        assert field.description
        assert lines[number - 1] == f"# {field.description}"


def test_secrets_are_left_out() -> None:
    told = settings_toml(load_settings(flags={"tcp": "127.0.0.1:0", "secrets": [SECRET]}, environ={}))
    assert "0123456789abcdef" not in told
    assert '# 1, not shown: "gpu \\"1\\""' in told
