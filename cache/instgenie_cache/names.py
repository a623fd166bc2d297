"""Names of templates. A namespace belongs to one tenant; a template's name begins with it."""

from __future__ import annotations

import re

_PART = r"[A-Za-z0-9._-]{1,64}"
_NAME = re.compile(rf"(?:{_PART}/)?{_PART}")
_NAMESPACE = re.compile(_PART)


def template_name(namespace: str, key: str) -> str:
    """The name of a template: `namespace/key`, or the key alone where the namespace is empty."""
    return f"{namespace}/{key}" if namespace else key


def is_template_name(name: str) -> bool:
    """Whether it is a name as `template_name` makes them, of at most 64 letters, digits, dots, _ and - a part."""
    return _NAME.fullmatch(name) is not None


def is_namespace(namespace: str) -> bool:
    """Whether it may be the name of a namespace."""
    return _NAMESPACE.fullmatch(namespace) is not None


def is_within(name: str, namespace: str | None) -> bool:
    """Whether a template is of the namespace; None is everyone's."""
    return namespace is None or name.startswith(f"{namespace}/")


def namespace_of(name: str) -> str:
    """The namespace of a template, empty where it has none."""
    return name.rpartition("/")[0]
