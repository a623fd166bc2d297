"""Bodies of forms, byte by byte, and pieces that they are sent in."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

BOUNDARY = b"B0undary"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY.decode()}"


def text_part(name: str, value: str | bytes) -> bytes:
    """One text part, without the boundary."""
    data = value.encode() if isinstance(value, str) else value
    return f'Content-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + data


def file_part(name: str, data: bytes, filename: str = "upload") -> bytes:
    """One file part, as the OpenAI SDK writes bare bytes."""
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
    return f"{disposition}Content-Type: application/octet-stream\r\n\r\n".encode() + data


def form_body(*parts: bytes, boundary: bytes = BOUNDARY) -> bytes:
    """The body of a form."""
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"


def chunked(pieces: list[bytes]) -> bytes:
    """The pieces in the chunked transfer encoding."""
    return b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces if piece) + b"0\r\n\r\n"


def cut(body: bytes, at: list[int]) -> list[bytes]:
    """The body in pieces that begin at those places."""
    places = [0, *sorted(place % (len(body) + 1) for place in at), len(body)]
    return [body[start:end] for start, end in pairwise(places)]


# Much that looks like a boundary and is none.
near_boundaries = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"\r\n", b"-", b"--", BOUNDARY, b"\r\n--" + BOUNDARY, b"\r\n--" + BOUNDARY[:-1], b"x"]
    ),
    max_size=12,
).map(b"".join)
cuts = st.lists(st.integers(0, 10_000), max_size=20)


def holds_boundary(data: bytes) -> bool:
    """Whether data of a part would end it before its end."""
    whole = data + b"\r\n--" + BOUNDARY
    first = min(i for end in (b"\r\n", b"--") if (i := (whole + end).find(b"\r\n--" + BOUNDARY + end)) >= 0)
    return first < len(data)
