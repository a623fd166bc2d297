"""Dataclasses of `instgenie.orders` as plain maps for a frame's header, and back, checked field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from instgenie.replica.told_numbers import range_of
from instgenie_cache.errors import ProtocolError

T = TypeVar("T")


def to_fields(value: object, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """A dataclass as a map, and those within it; fields that are named in `without` are left out, at every level."""
    return {name: _plain(getattr(value, name), without) for name in _hints(type(value)) if name not in without}


def read_fields(kind: type[T], header: object, **known: object) -> T:
    """A dataclass from a map.

    Args:
        known: fields that came otherwise, and are not in the map.

    Raises:
        ProtocolError: no map, or a field of it is missing, unknown, of a wrong type, or not to be in that dataclass, or
            a number of a replica's that is outside its range.
    """
    hints = _hints(kind)
    if not isinstance(header, dict):
        raise ProtocolError(f"{kind.__name__} is a map, not {repr(header)[:80]}")
    if wrong := header.keys() ^ (hints.keys() - known.keys()):
        name = sorted(map(str, wrong))[0]
        raise ProtocolError(f"{kind.__name__} {'lacks' if name in hints else 'has no field'} {name[:40]!r}")
    read = {name: _read(hints[name], value, f"{kind.__name__}.{name}") for name, value in header.items()}
    try:
        return kind(**read, **known)
    except ValueError as error:
        raise ProtocolError(f"{kind.__name__} is not to be: {error}") from error


def _plain(value: Any, without: frozenset[str]) -> Any:
    if is_dataclass(value):
        return to_fields(value, without)
    if isinstance(value, (tuple, list)):
        return [_plain(item, without) for item in value]
    if isinstance(value, Mapping):
        return {name: _plain(item, without) for name, item in value.items()}
    return value


def _hints(kind: type[Any]) -> dict[str, Any]:
    return _found_hints(kind)  # type: ignore[arg-type]  # mypy does not take every class as hashable


@lru_cache
def _found_hints(kind: type[Any]) -> dict[str, Any]:
    found = get_type_hints(kind)
    return {f.name: found[f.name] for f in fields(kind)}


def _read(hint: Any, value: Any, name: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        [one] = [argument for argument in arguments if argument is not NoneType]
        return _read(one, value, name)
    if origin is tuple and type(value) is list:
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            return tuple(_read(kind, item, name) for kind, item in zip(kinds, value, strict=True))
    elif origin is Mapping and type(value) is dict:
        named, kind = arguments
        return {_read(named, key, name): _read(kind, item, f"{name}.{key}") for key, item in value.items()}
    elif origin is Literal:
        if type(value) is str and value in arguments:
            return value
    elif is_dataclass(hint) and isinstance(hint, type):
        return read_fields(hint, value)
    elif (hint is float and type(value) is int) or type(value) is hint:
        return _in_range(value, name) if hint in (int, float) else value
    raise ProtocolError(f"{name} is not to be {repr(value)[:80]}")


def _in_range(value: float, name: str) -> float:
    """A number, if it may be so large; NaN may be nowhere."""
    if (limits := range_of(name)) is not None:
        low, high = limits
        if not low <= value <= high:
            raise ProtocolError(f"{name} is {value!r}, it has to be in {low:g}..{high:g}")
    return value
