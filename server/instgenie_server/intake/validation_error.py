"""From pydantic's errors to ones that a person can read: the field, its value, the limit."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from instgenie_server.api_error import ApiError, invalid
from instgenie_server.intake.field_values import PLAIN, shown
from instgenie_server.intake.multipart import MAX_NAME_CHARS

_MESSAGES = {  # by pydantic's type of error; filled in with its context and the value
    PLAIN: "{message}",
    "missing": "is required",
    "extra_forbidden": "is not a field of this request",
    "greater_than": "{value} is not more than {gt}",
    "greater_than_equal": "{value} is less than {ge}",
    "less_than": "{value} is not less than {lt}",
    "less_than_equal": "{value} is more than {le}",
    "int_type": "{value} is not a whole number",
    "int_parsing": "{value} is not a whole number",
    "int_parsing_size": "{value} is not in the range of whole numbers",
    "int_from_float": "{value} is not a whole number",
    "float_type": "{value} is not a number",
    "float_parsing": "{value} is not a number",
    "bool_type": "{value} is neither true nor false",
    "bool_parsing": "{value} is neither true nor false",
    "finite_number": "{value} is not a finite number",
    "literal_error": "{value} is not one of {expected}",
    "string_too_long": "{length} characters are more than {max_length}",
    "string_type": "{value} is not text",
    "string_unicode": "is not Unicode text",
    "list_type": "{value} is not a list",
    "tuple_type": "{value} is not a list",
    "too_short": "has {actual_length} entries, less than {min_length}",
    "too_long": "has {actual_length} entries, more than {max_length}",
    "json_invalid": "is not JSON: {error}",
    "model_type": "is not a JSON object",
    "dict_type": "is not a JSON object",
}
_CODES = {"missing": "missing_field", "extra_forbidden": "unknown_field", "json_invalid": "invalid_json"}


def to_api_error(error: ValidationError) -> ApiError:
    """A 400 of the first of the errors; its `param` is the field, its message also tells the place within a list."""
    first = error.errors(include_url=False)[0]
    kind, value = first["type"], first["input"]
    limits = {name: limit if isinstance(limit, str) else shown(limit) for name, limit in first.get("ctx", {}).items()}
    words: dict[str, Any] = {**limits, "value": shown(value)}
    if isinstance(value, str):
        words["length"] = len(value)
    message = _MESSAGES[kind].format_map(words) if kind in _MESSAGES else f"{shown(value)} cannot be used"
    if not first["loc"]:
        return invalid(f"the body {message}", None, _CODES.get(kind))
    param = str(first["loc"][0])[:MAX_NAME_CHARS]
    place = "".join(f"[{str(step)[:MAX_NAME_CHARS]}]" for step in first["loc"][1:])
    return invalid(f"{param}{place}: {message}", param, _CODES.get(kind))
