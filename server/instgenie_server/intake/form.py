"""Forms as clients send them: the multipart body of a request, within its limits."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiohttp import web

from instgenie_server.access.upload_permits import UploadPermits
from instgenie_server.api_error import invalid
from instgenie_server.intake.body import receive_body
from instgenie_server.intake.multipart import MAX_BOUNDARY_BYTES, MultipartParser, Part, PartLimits, read_header
from instgenie_server.settings import LimitSettings

MAX_TEXT_BYTES = 256 * 1024  # the longest prompt, 32,000 characters, is at most 128,000 bytes
FILE_LISTS = ("image", "image[]")
FILE_FIELDS = (*FILE_LISTS, "mask")


@dataclass(frozen=True, slots=True)
class FilePart:
    """An uploaded file. Neither its name nor the MIME type that the client gave it says what it is."""

    filename: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Form:
    """The parts of a form by name; nested names such as `lora[name]` stay as they are."""

    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[FilePart]] = field(default_factory=dict)


async def read_form(request: web.Request, limits: LimitSettings, uploads: UploadPermits) -> Form:
    """Read the body of a multipart/form-data request.

    Args:
        uploads: shared by all requests; one of the caller's permits is held while the body is read.
    Raises:
        ApiError: 400 not such a form, 408 too slow, 413 too large, 429 too many uploads at once.
    """
    sizes = PartLimits(limits.parts, limits.part_bytes, min(limits.part_bytes, MAX_TEXT_BYTES))
    parser = MultipartParser(form_boundary(request.headers.get("Content-Type", "")), sizes)
    await receive_body(request, limits, uploads, parser.feed)
    return to_form(parser.finish())


def form_boundary(content_type: str) -> bytes:
    """The boundary that a Content-Type header names.

    Raises:
        ApiError: 400, another type, or no usable boundary.
    """
    value, parameters = read_header(content_type)
    if value != "multipart/form-data":
        given = repr(content_type[:60]) if content_type else "none"
        raise invalid(f"expected a multipart/form-data body, the Content-Type is {given}", code="not_a_form")
    boundary = parameters.get("boundary", "")
    if not boundary:
        raise invalid("the Content-Type multipart/form-data names no boundary", code="malformed_form")
    if not boundary.isascii() or len(boundary) > MAX_BOUNDARY_BYTES:
        raise invalid(f"the form's boundary is not 1..{MAX_BOUNDARY_BYTES} ASCII characters", code="malformed_form")
    return boundary.encode()


def to_form(parts: list[Part]) -> Form:
    """The parts by name. A file input that was left empty counts as absent.

    Raises:
        ApiError: 400, a part that may be there once is repeated, a picture was sent as text, or text is not UTF-8.
    """
    form = Form()
    for part in parts:
        name = part.name
        if part.filename == "" and not part.data:
            continue
        if (name in form.fields) or (name in form.files and (part.filename is None or name not in FILE_LISTS)):
            raise invalid(f"{name}: is there more than once", name, "duplicate_field")
        if part.filename is not None:
            form.files.setdefault(name, []).append(FilePart(part.filename, bytes(part.data)))
            continue
        if name in FILE_FIELDS:
            raise invalid(f"{name}: was sent as text; a file has a filename in its Content-Disposition", name)
        try:
            form.fields[name] = part.data.decode()
        except UnicodeDecodeError:
            raise invalid(f"{name}: is not UTF-8 text", name) from None
    return form
