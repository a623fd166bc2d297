"""Errors as replies: a kind of `ERROR_KINDS` and a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from instgenie_cache.errors import CacheError
from instgenie_cache.wire.messages import ERROR_KINDS

_MAX_CHARACTERS = 1000


def error_fields(request_id: int, error: CacheError) -> dict[str, Any]:
    """The header of a reply that says that a request failed: the most exact kind that fits."""
    kinds = {kind: name for name, kind in ERROR_KINDS.items()}
    name = next(kinds[kind] for kind in type(error).__mro__ if kind in kinds)
    return {"id": request_id, "error": name, "message": str(error)[:_MAX_CHARACTERS]}


def read_error(header: Mapping[str, Any]) -> CacheError | None:
    """The error that a reply's header tells of, None where it tells of none. Unknown kinds are `CacheError`s."""
    if "error" not in header:
        return None
    name, message = header["error"], header.get("message")
    kind = ERROR_KINDS.get(name, CacheError) if isinstance(name, str) else CacheError
    return kind(message[:_MAX_CHARACTERS] if isinstance(message, str) else "no message")
