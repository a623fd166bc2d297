"""The pictures of a request, as uploaded."""

from __future__ import annotations

from dataclasses import dataclass

from instgenie_server.api_error import invalid
from instgenie_server.intake.form import FILE_FIELDS, Form

MAX_IMAGES = 16


@dataclass(frozen=True, slots=True)
class Uploads:
    """Files of an edit, not yet decoded; `mask` None: the transparent pixels of the image are edited."""

    image: bytes
    mask: bytes | None = None


def read_uploads(form: Form) -> Uploads:
    """The files `image` (or the first of `image[]`) and `mask`.

    More images are accepted, up to OpenAI's 16, and not used: the first one is the picture that is edited.

    Raises:
        ApiError: 400, the image is missing, or a file is not one of these.
    """
    for name in form.files:
        if name not in FILE_FIELDS:
            raise invalid(f"{name}: no file of this name is expected", name, "unknown_field")
    if "image" in form.files and "image[]" in form.files:
        raise invalid("image: was sent both as image and as image[]", "image")
    images = form.files.get("image", form.files.get("image[]", []))
    if not images:
        raise invalid("image: is required", "image", "missing_field")
    if len(images) > MAX_IMAGES:
        raise invalid(f"image: {len(images)} images are more than {MAX_IMAGES}", "image")
    masks = form.files.get("mask")
    return Uploads(images[0].data, masks[0].data if masks else None)
