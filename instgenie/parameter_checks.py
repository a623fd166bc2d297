"""Limits of what is asked for; each error names the parameter, the value and the limit."""

from __future__ import annotations

from PIL import Image

from instgenie.errors import ParameterError, PictureError
from instgenie.flow import MAX_STEPS
from instgenie.window import Box
from instgenie_cache.names import is_namespace

PICTURE_MODES = ("RGB", "RGBA")
MAX_PROMPT_CHARS = 32_000
MAX_HALO_TOKENS = 64
MAX_FEATHER_PIXELS = 256
MAX_GUIDANCE = 100.0
MAX_SEED = 2**63 - 1
MAX_WINDOWS = 10_000


def check_picture(picture: Image.Image) -> None:
    """Raise `PictureError` unless the picture is RGB or RGBA."""
    if picture.mode not in PICTURE_MODES:
        raise PictureError("picture", f"mode {picture.mode!r} is not one of {', '.join(PICTURE_MODES)}")


def check_box(box: Box, width: int, height: int) -> None:
    """Raise `ParameterError` unless the box holds a pixel and lies in a picture of that size."""
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ParameterError("boxes", f"{box} is not a box in a picture of {width}x{height} pixels")


def check_template(steps: int | None, guidance: float | None, seed: int, prompt: str) -> None:
    """Raise `ParameterError` where one of a template's settings is outside its limits."""
    if steps is not None:
        check_whole("steps", steps, 1, MAX_STEPS)
    if guidance is not None and not 0 <= guidance <= MAX_GUIDANCE:
        raise ParameterError("guidance", f"{guidance} is not in 0..{MAX_GUIDANCE:g}")
    check_whole("template_seed", seed, 0, MAX_SEED)
    check_text("template_prompt", prompt)


def check_drift(drift: float) -> None:
    """Raise `ParameterError` unless it is a share that a step can drift by and be left out."""
    if not 0 <= drift < 1:  # nor is NaN
        raise ParameterError("drift", f"{drift} is not in 0 <= drift < 1")


def check_namespace(namespace: str) -> None:
    """Raise `ParameterError` unless it is empty or a namespace of the cache."""
    if namespace and not is_namespace(namespace):
        raise ParameterError("namespace", f"{namespace[:80]!r} is not 1 to 64 letters, digits, dots, _ and -")


def check_text(name: str, text: str) -> None:
    """Raise `ParameterError` where the text is too long or no Unicode text."""
    if len(text) > MAX_PROMPT_CHARS:
        raise ParameterError(name, f"{len(text)} characters are more than {MAX_PROMPT_CHARS}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ParameterError(name, f"character {error.start} is half of a surrogate pair, not text") from error


def check_whole(name: str, value: int, low: int, high: int) -> None:
    """Raise `ParameterError` unless the value is an int in low..high."""
    if type(value) is not int:
        raise ParameterError(name, f"{value!r} is not a whole number")
    if not low <= value <= high:
        raise ParameterError(name, f"{value} is not in {low}..{high}")
