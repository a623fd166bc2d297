"""Variables in a compose file, and the file that sets them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_VARIABLE = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<bare>[A-Za-z_]\w*)|\{(?P<name>[A-Za-z_]\w*)(?:(?P<sign>:?-)(?P<default>[^{}$]*))?\})"
)


class ComposeError(Exception):
    """A compose file that is wrong, or has what these processes cannot have."""


def read_env_file(text: str) -> dict[str, str]:
    """Lines NAME=VALUE; comments, lines of their own, begin with #.

    Raises:
        ComposeError: another line, or quotes, which are not known here.
    """
    variables = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, equals, value = line.partition("=")
        if line.startswith("#"):
            continue
        if not equals or not name.isidentifier() or re.search(r"[\"'#]", value):
            raise ComposeError(f"not NAME=VALUE: {line}")
        variables[name] = value
    return variables


def interpolate(node: Any, variables: Mapping[str, str]) -> Any:
    """The same tree with variables replaced in all its texts: $NAME, ${NAME}, ${NAME:-default}, ${NAME-default}.

    Raises:
        ComposeError: a variable without a value or default, or a $ that begins none of these.
    """
    if isinstance(node, dict):
        return {key: interpolate(value, variables) for key, value in node.items()}
    if isinstance(node, list):
        return [interpolate(value, variables) for value in node]
    return _text(node, variables) if isinstance(node, str) else node


def _text(text: str, variables: Mapping[str, str]) -> str:
    if "$" in _VARIABLE.sub("", text):
        raise ComposeError(f"a $ that begins no variable; for itself it is written twice: {text}")

    def value(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        name = match["bare"] or match["name"]
        found = variables.get(name)
        if found or (found is not None and match["sign"] != ":-"):
            return found
        if match["default"] is None:
            raise ComposeError(f"{name} is not set, and has no default: {text}")
        return match["default"]

    return _VARIABLE.sub(value, text)
