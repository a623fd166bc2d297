"""Where settings of the service come from: defaults < TOML file < environment < flags.

A setting's environment variable is `INSTGENIE_CACHE_` and its name in capitals. The word `none` stands for no value
where a setting may have none, since neither TOML nor the environment has one. Secrets come from the file alone.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from instgenie_cache.errors import CacheError
from instgenie_cache.service.service_settings import ServiceSettings

ENV_PREFIX = "INSTGENIE_CACHE_"
CONFIG_VARIABLE = "INSTGENIE_CACHE_CONFIG"


class SettingsError(CacheError):
    """Settings that are unknown or outside their limits, all of them in one line."""


def load_settings(
    config: Path | None = None,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> ServiceSettings:
    """The effective settings.

    Args:
        config: TOML file; None takes the one that INSTGENIE_CACHE_CONFIG names, if it does.
        flags: names to values; None is a flag that was not given.

    Raises:
        SettingsError: with every problem that was found.
    """
    if config is None and environ.get(CONFIG_VARIABLE):
        config = Path(environ[CONFIG_VARIABLE]).expanduser()
    values: dict[str, Any] = {} if config is None else _read_toml(config)
    places = dict.fromkeys(values, f"in {config}")
    problems: list[str] = []
    unknown: list[str] = []
    for variable, value in environ.items():
        if not variable.startswith(ENV_PREFIX) or variable == CONFIG_VARIABLE:
            continue
        if variable.startswith(
            f"{ENV_PREFIX}_"
        ):  # a setting of programs that use the cache, as INSTGENIE_CACHE__FOLDER
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        if name not in ServiceSettings.model_fields:
            unknown.append(f"unknown environment variable {variable}")
        elif name == "secrets":
            problems.append(f"secrets come from the TOML file, not from {variable}")
        else:
            values[name], places[name] = value, f"in {variable}"
    for name, given in (flags or {}).items():
        if given is not None:
            values[name], places[name] = given, "in a flag"
    for name, value in values.items():
        if isinstance(value, str) and value.strip().lower() == "none" and _may_be_none(name):
            values[name] = None
    try:
        settings = ServiceSettings(**values)
    except ValidationError as error:
        problems += [_told(detail, places) for detail in error.errors() if detail["type"] != _NOT_CALLED]
    problems += unknown
    if problems:
        if unknown or values.keys() - ServiceSettings.model_fields.keys():
            problems.append(f"the settings are {', '.join(ServiceSettings.model_fields)}")
        raise SettingsError("; ".join(problems))
    return settings


_NOT_CALLED = "default_factory_not_called"  # what a default depends on is wrong, which is told already


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # of the encoding, or of the syntax
        raise SettingsError(f"{path} is not TOML: {error}") from error


def _may_be_none(name: str) -> bool:
    field = ServiceSettings.model_fields.get(name)
    return field is not None and NoneType in get_args(field.annotation)


def _told(detail: ErrorDetails, places: Mapping[str, str]) -> str:
    """What is wrong, and where it was said. Values are not shown: they may be secrets."""
    where = [str(part) for part in detail["loc"]]
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        message = "there is no such setting"
    if not where:
        return message
    place = places.get(where[0], "the default")
    return f"{'.'.join(where)}: {message[:1].lower()}{message[1:]} ({place})"
