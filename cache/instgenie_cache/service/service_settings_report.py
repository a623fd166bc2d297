"""Settings of the service as a TOML file for `--config`, with what each of them means."""

from __future__ import annotations

import json
from pathlib import Path

from instgenie_cache.service.service_settings import ServiceSettings


def settings_toml(settings: ServiceSettings) -> str:
    """A file that loads back to the same settings, but for the secrets, which are left out.

    What has no value is the word none.
    """
    lines: list[str] = []
    for name, field in ServiceSettings.model_fields.items():
        if lines:
            lines.append("")
        lines.append(f"# {field.description}")
        if name == "secrets":
            lines.append(_secrets_line(settings))
        else:
            lines.append(f"{name} = {_toml(getattr(settings, name))}")
    return "\n".join(lines) + "\n"


def _secrets_line(settings: ServiceSettings) -> str:
    names = ", ".join(_toml(secret.name) for secret in settings.secrets)
    return f"# {len(settings.secrets)}, not shown: {names}" if names else "secrets = []"


def _toml(value: object) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    assert isinstance(value, (str, Path))
    # JSON's escapes are TOML's but for DEL, which JSON leaves as it is.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
