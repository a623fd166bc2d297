"""Where settings come from: defaults < TOML file < environment < flags.

A setting is named by its dotted key, such as `limits.parts`; its environment variable is `INSTGENIE_LIMITS__PARTS`.
The word `none` stands for no value wherever a setting may have none, since neither TOML nor the environment has one.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from instgenie_server.operator_error import SettingsError
from instgenie_server.settings import Settings

Source = Literal["default", "file", "environment", "flag"]

ENV_PREFIX = "INSTGENIE_"
CONFIG_VARIABLE = "INSTGENIE_CONFIG"
API_KEY_VARIABLE = "INSTGENIE_API_KEY"  # of commands that are clients
# Names with our prefix that are no settings; a variable of another part of the program has to be added here.
OTHER_VARIABLES = frozenset({CONFIG_VARIABLE, API_KEY_VARIABLE})
MAX_SHOWN_CHARS = 80  # of a wrong value


@dataclass(frozen=True, slots=True)
class ResolvedSettings:
    """Settings, where the value of each key is from, and the file that was read."""

    settings: Settings
    sources: Mapping[str, Source]
    file: Path | None


@dataclass(frozen=True, slots=True)
class _Given:
    """A value that was set; `place` says where, in words."""

    value: object
    source: Source
    place: str


def load_settings(toml: Path | None, flags: Mapping[str, object], environ: Mapping[str, str] = os.environ) -> Settings:
    """The effective settings; see `resolve_settings`."""
    return resolve_settings(toml, flags, environ).settings


def resolve_settings(
    toml: Path | None, flags: Mapping[str, object], environ: Mapping[str, str] = os.environ
) -> ResolvedSettings:
    """The effective settings with their sources.

    Args:
        toml: None takes the file that INSTGENIE_CONFIG names, if it does.
        flags: dotted keys to values; None is a flag that was not given.
    Raises:
        SettingsError: an unknown key, a value outside its limits, or a file that cannot be read.
    """
    if toml is None and environ.get(CONFIG_VARIABLE):
        toml = Path(environ[CONFIG_VARIABLE]).expanduser()
    problems: list[str] = []
    given: dict[str, _Given] = {}
    if toml is not None:
        given |= _from_file(_read_toml(toml), str(toml), problems)
    given |= _from_environment(environ, problems)
    given |= _from_flags(flags, problems)
    nested: dict[str, Any] = {}
    for key, entry in given.items():
        *groups, name = key.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[name] = _value(key, entry, problems)
    settings = _validated(nested, given, problems)
    if settings is None or problems:
        raise SettingsError(problems)
    return ResolvedSettings(settings, {key: given[key].source if key in given else "default" for key in fields()}, toml)


def parse_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """Flags of the form KEY=VALUE as a mapping.

    Raises:
        SettingsError: there is no `=`.
    """
    pairs = [assignment.partition("=") for assignment in assignments]
    problems = [f"{key} has no value: write KEY=VALUE" for key, equals, _ in pairs if not equals]
    if problems:
        raise SettingsError(problems)
    return {key.strip(): value for key, _, value in pairs}


@cache
def fields() -> Mapping[str, FieldInfo]:
    """Dotted keys of all settings, those outside groups first."""
    return dict(sorted(_walk(Settings, ""), key=lambda item: "." in item[0]))


def _walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _walk(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def groups() -> frozenset[str]:
    """Names of the groups of settings."""
    return frozenset(key.rpartition(".")[0] for key in fields()) - {""}


def variable_of(key: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + key.replace(".", "__").upper()


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([f"{path} cannot be read: {error.strerror}"]) from error
    except ValueError as error:  # of the encoding, or of the syntax
        raise SettingsError([f"{path} is not TOML: {error}"]) from error


def _from_file(table: Mapping[str, Any], place: str, problems: list[str], prefix: str = "") -> dict[str, _Given]:
    given: dict[str, _Given] = {}
    for name, value in table.items():
        key = prefix + name
        if key in groups():
            if isinstance(value, dict):
                given |= _from_file(value, place, problems, f"{key}.")
            else:
                problems.append(f"{key} is a group of settings: write it as [{key}] (in {place})")
        elif key in fields():
            given[key] = _Given(value, "file", f"in {place}")
        else:
            problems.append(f"unknown setting {key}{_hint(key, list(fields()))} (in {place})")
    return given


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, _Given]:
    keys = {variable_of(key): key for key in fields()}
    given: dict[str, _Given] = {}
    for name, value in environ.items():
        if name in keys:
            given[keys[name]] = _Given(value, "environment", f"in {name}")
        elif name.upper().startswith(ENV_PREFIX) and name not in OTHER_VARIABLES:
            problems.append(f"unknown environment variable {name}{_hint(name, [*keys, *OTHER_VARIABLES])}")
    return given


def _from_flags(flags: Mapping[str, object], problems: list[str]) -> dict[str, _Given]:
    given: dict[str, _Given] = {}
    for key, value in flags.items():
        if key not in fields():
            problems.append(f"unknown setting {key}{_hint(key, list(fields()))} (in a flag)")
        elif value is not None:
            given[key] = _Given(value, "flag", "in a flag")
    return given


def _hint(name: str, known: Sequence[str]) -> str:
    """The known name that was probably meant: one in another group, or the nearest in spelling."""
    same_end = [other for other in known if other.rpartition(".")[2] == name.rpartition(".")[2]]
    nearest = same_end or difflib.get_close_matches(name, known, 1) or difflib.get_close_matches(name.upper(), known, 1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _value(key: str, entry: _Given, problems: list[str]) -> object:
    """The value as pydantic takes it."""
    value = entry.value
    kinds = _kinds(key)
    if isinstance(value, str):
        if value.strip().lower() == "none" and NoneType in kinds:
            return None
        if any("\ud800" <= char <= "\udfff" for char in value):  # bytes of the environment that are not UTF-8
            problems.append(f"{key} is not valid UTF-8 ({entry.place})")
    if isinstance(value, bool) and {int, float} & set(kinds):  # pydantic would take true for 1
        problems.append(f"{key} is {_shown(key, value)}, but must be a number ({entry.place})")
    return value


def _validated(nested: dict[str, Any], given: Mapping[str, _Given], problems: list[str]) -> Settings | None:
    try:
        return Settings(**nested)
    except ValidationError as error:
        for detail in error.errors():
            key = ".".join(str(part) for part in detail["loc"] if isinstance(part, str))
            key = next(known for known in fields() if key == known or key.startswith(f"{known}."))
            place = given[key].place if key in given else "the default"
            problems.append(f"{key} is {_shown(key, detail['input'])}, but {_demand(detail)} ({place})")
        return None


def is_secret(key: str) -> bool:
    """Whether the setting's value must not be shown."""
    return SecretStr in _kinds(key)


def _kinds(key: str) -> tuple[Any, ...]:
    """The types that a setting's value may have."""
    annotation = fields()[key].annotation
    return get_args(annotation) or (annotation,)


def _shown(key: str, value: object) -> str:
    if is_secret(key):
        return "(not shown)"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "..."


_DEMANDS = {
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be finite",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "literal_error": "must be one of {expected}",
    "string_type": "must be text",
    "tuple_type": "must be a list, or text with commas",
    "path_type": "must be a path",
    "string_too_short": "must have at least {min_length} characters",
    "too_short": "must have at least {min_length} characters",
}


def _demand(detail: ErrorDetails) -> str:
    """What the setting asks for, from an error of pydantic."""
    context = dict(detail.get("ctx", {}))
    if detail["type"] == "value_error":
        return str(context["error"])
    if detail["type"] == "literal_error":
        context["expected"] = str(context["expected"]).replace("'", "")
    template = _DEMANDS.get(detail["type"])
    return template.format(**context) if template else detail["msg"][:1].lower() + detail["msg"][1:]
