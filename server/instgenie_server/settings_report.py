"""Settings as people and programs read them: rows with their sources, and a TOML file that loads back to the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from instgenie_server.settings import Settings
from instgenie_server.settings_sources import ResolvedSettings, Source, fields, is_secret

Plain = str | int | float | bool | None
MASK = "********"


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One effective setting; a secret's value is `MASK`."""

    key: str
    value: Plain
    source: Source


def describe(resolved: ResolvedSettings) -> list[SettingRow]:
    """All settings, secrets masked."""
    return [SettingRow(key, _plain(resolved.settings, key, secrets=False), resolved.sources[key]) for key in fields()]


def to_toml(settings: Settings, *, secrets: bool = False) -> str:
    """A file that loads back to the same settings. Without `secrets` those are left out: a mask would be taken for one.

    What has no value is the word none, in a comment where that is the default.
    """
    lines: list[str] = []
    group = ""
    for key, field in fields().items():
        key_group, _, name = key.rpartition(".")
        if key_group != group:
            group = key_group
            lines += ["", f"[{group}]"]
        value = _plain(settings, key, secrets=secrets)
        lines += [f"# {field.description}"] if field.description else []
        if value is None:
            is_default = field.get_default(call_default_factory=True) is None
            lines.append(f'{"# " if is_default else ""}{name} = "none"')
        elif is_secret(key) and not secrets:
            lines.append(f"# {name} is set and not shown")
        else:
            lines.append(f"{name} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _plain(settings: Settings, key: str, *, secrets: bool) -> Plain:
    value: Any = reduce(getattr, key.split("."), settings)
    if isinstance(value, SecretStr):
        return value.get_secret_value() if secrets else MASK
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return ",".join(value)
    plain: Plain = value
    return plain


def _toml(value: str | float) -> str:
    if isinstance(value, str):
        # JSON's escapes are TOML's but for DEL, which JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
