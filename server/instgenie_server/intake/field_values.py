"""Values of fields: forms carry text, JSON carries types, and both are read by the same rules."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

# A picture of this size can be uploaded, too: the limits are those of `instgenie.picture`, and a test compares them.
MIN_SIDE_PIXELS = 16
MAX_PIXELS = 64_000_000
MAX_ASPECT = 8

PLAIN = "plain"  # the type of errors whose message is complete
_WHOLE = re.compile(r"[+-]?[0-9]{1,400}(\.0+)?")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_SIZE = re.compile(r"([1-9][0-9]{1,4})x([1-9][0-9]{1,4})")


def shown(value: Any) -> str:
    """A value as error messages quote it, never long."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 60 else f"{value[:60]!r}..."
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 200 else "a huge number"
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    return "a list" if isinstance(value, list) else "an object"


def complaint(message: str) -> PydanticCustomError:
    """An error whose message a client sees after the field's name."""
    return PydanticCustomError(PLAIN, "{message}", {"message": message})


def _whole(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and len(value) <= 500 and _WHOLE.fullmatch(value):
        return int(value.partition(".")[0])
    raise complaint(f"{shown(value)} is not a whole number")


def _number(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= 500 and _NUMBER.fullmatch(value):
        return float(value)
    raise complaint(f"{shown(value)} is not a number")


def _flag(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    flag = _FLAGS.get(str(value).lower()) if isinstance(value, str | int) else None
    if flag is None:
        raise complaint(f"{shown(value)} is neither true nor false")
    return flag


def to_size(text: str) -> tuple[int, int] | None:
    """Width and height of `WxH`; None of `auto`."""
    match = _SIZE.fullmatch(text)
    return (int(match[1]), int(match[2])) if match else None


def _size(text: str) -> str:
    size = to_size(text)
    if size is None and text != "auto":
        raise complaint(f"{shown(text)} is neither auto nor a size in pixels such as 1024x768")
    if size is not None:
        check_size(*size)
    return text


def check_size(width: int, height: int) -> None:
    """Raise a complaint unless a result may have this size."""
    size = f"{width}x{height} pixels"
    if min(width, height) < MIN_SIDE_PIXELS:
        raise complaint(f"{size}: a side is shorter than {MIN_SIDE_PIXELS}")
    if width * height > MAX_PIXELS:
        raise complaint(f"{size} are more than {MAX_PIXELS:,}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise complaint(f"{size}: longer than {MAX_ASPECT}:1")


# After the limits in an `Annotated`: pydantic then puts them into the JSON schema and checks the number, not the text.
whole = BeforeValidator(_whole)
number = BeforeValidator(_number)
Flag = Annotated[bool, BeforeValidator(_flag)]
Size = Annotated[str, AfterValidator(_size), Field(json_schema_extra={"pattern": f"^(auto|{_SIZE.pattern})$"})]
