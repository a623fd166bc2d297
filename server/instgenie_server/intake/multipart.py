"""Parser of multipart/form-data (RFC 7578): bytes in, in chunks of any size, parts out. No I/O.

aiohttp's own reader is not used: it answers malformed input with `AssertionError` or `RuntimeError` among others,
warns, reads parts within parts, and looks at encodings that RFC 7578 has done away with. Here the same bytes give the
same parts or the same `ApiError`, however they are cut.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, auto

from instgenie_server.api_error import ApiError, invalid, too_large

MAX_BOUNDARY_BYTES = 70
MAX_HEADER_BYTES = 8192
MAX_NAME_CHARS = 200
_PARAMETER = re.compile(r';[ \t]*([\w*-]+)=(?:"((?:[^"\\]|\\.)*)"|([^;"\s]*))', re.ASCII)
_PLAIN_ENCODINGS = ("", "binary", "7bit", "8bit")


@dataclass(frozen=True, slots=True)
class PartLimits:
    """How many parts a form may have, and how large each may be."""

    parts: int
    file_bytes: int
    text_bytes: int


@dataclass(slots=True)
class Part:
    """One part; `filename` is None where the part is text."""

    name: str
    filename: str | None
    data: bytearray = field(default_factory=bytearray)


class _State(Enum):
    START = auto()
    HEADERS = auto()
    DATA = auto()
    END = auto()


class MultipartParser:
    """Collects the parts of one form.

    Args:
        boundary: as the Content-Type gives it, 1..70 bytes.
    """

    def __init__(self, boundary: bytes, limits: PartLimits) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._boundary = re.compile(re.escape(self._delimiter) + rb"(?:\r\n|--)")
        self._limits = limits
        self._state = _State.START
        self._buffer = bytearray(b"\r\n")  # so that the first delimiter looks like the others
        self._parts: list[Part] = []

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            ApiError: 400 malformed, 413 too many or too large parts.
        """
        if self._state is _State.END:
            return  # what follows the last boundary means nothing
        self._buffer += data
        while self._advance():
            pass

    def finish(self) -> list[Part]:
        """The parts, once all bytes were fed.

        Raises:
            ApiError: 400, the last boundary is missing.
        """
        if self._state is not _State.END:
            within = f" (within part {self._parts[-1].name!r})" if self._state is _State.DATA else ""
            raise _malformed(f"the form is cut short: its last boundary is missing{within}")
        return self._parts

    def _advance(self) -> bool:
        """Take one step; whether another one may be possible with the bytes at hand."""
        match self._state:
            case _State.START:
                return self._read_start()
            case _State.HEADERS:
                return self._read_headers()
            case _State.DATA:
                return self._read_data()
            case _State.END:
                self._buffer.clear()
                return False

    def _read_start(self) -> bool:
        size = len(self._delimiter)
        if not self._delimiter.startswith(self._buffer[:size]):
            raise _malformed("the form does not begin with the boundary that its Content-Type names")
        if len(self._buffer) < size + 2:
            return False
        if not self._pass_delimiter():
            raise _malformed("the form's first boundary is not alone on its line")
        return True

    def _read_headers(self) -> bool:
        # The new line of the boundary is still there: a part without headers is b"\r\n\r\n" now.
        end = self._buffer.find(b"\r\n\r\n", 0, MAX_HEADER_BYTES)
        if end < 0:
            if len(self._buffer) >= MAX_HEADER_BYTES:
                raise _malformed(f"the headers of a part are longer than {MAX_HEADER_BYTES} bytes")
            return False
        if len(self._parts) == self._limits.parts:
            raise too_large(f"the form has more than {self._limits.parts} parts")
        self._parts.append(_part(bytes(self._buffer[2:end])))
        del self._buffer[: end + 4]
        self._state = _State.DATA
        return True

    def _read_data(self) -> bool:
        boundary = self._boundary.search(self._buffer)
        if boundary is None:
            self._take(len(self._buffer) - len(self._delimiter) - 1)  # the rest may be the beginning of a boundary
            return False
        self._take(boundary.start())
        return self._pass_delimiter()

    def _pass_delimiter(self) -> bool:
        """Go past the delimiter at the buffer's start; False if its line goes on, so that it is none."""
        size = len(self._delimiter)
        after = self._buffer[size : size + 2]
        if after == b"--":
            self._state = _State.END
        elif after == b"\r\n":
            self._state = _State.HEADERS
        else:
            return False
        del self._buffer[:size]
        return True

    def _take(self, num_bytes: int) -> None:
        if num_bytes <= 0:
            return
        part = self._parts[-1]
        limit = self._limits.text_bytes if part.filename is None else self._limits.file_bytes
        if len(part.data) + num_bytes > limit:
            raise too_large(f"{part.name}: larger than {limit:,} bytes", part.name)
        with memoryview(self._buffer) as view:
            part.data += view[:num_bytes]
        del self._buffer[:num_bytes]


def read_header(text: str) -> tuple[str, dict[str, str]]:
    """The parts of a header such as `form-data; name="a"`: its value in small letters, and its parameters.

    Of parameters of one name the first one counts. The standard library's parser of e-mails is not used: it fails for
    some characters that HTTP lets through.
    """
    found = reversed(_PARAMETER.findall(text))
    parameters = {key.lower(): re.sub(r"\\(.)", r"\1", quoted) or plain for key, quoted, plain in found}
    return text.partition(";")[0].strip().lower(), parameters


def _part(block: bytes) -> Part:
    """The part that those header lines begin."""
    try:
        lines = block.decode().split("\r\n")
    except UnicodeDecodeError:
        raise _malformed("the headers of a part are not UTF-8") from None
    headers: dict[str, str] = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if not colon or not key or key != key.strip() or {"\r", "\n", "\0"} & set(line):
            raise _malformed(f"a part has the header line {line[:60]!r}")
        headers.setdefault(key.lower(), value.strip())
    disposition, parameters = read_header(headers.get("content-disposition", ""))
    name = parameters.get("name", "")
    if disposition != "form-data" or not name:
        raise _malformed("a part has no name: its headers lack Content-Disposition: form-data; name=...")
    if len(name) > MAX_NAME_CHARS:
        raise _malformed(f"the name of a part is longer than {MAX_NAME_CHARS} characters")
    encoding = headers.get("content-transfer-encoding", "")
    if encoding.lower() not in _PLAIN_ENCODINGS:
        raise invalid(f"{name}: Content-Transfer-Encoding {encoding[:60]!r} is not understood: send plain bytes", name)
    return Part(name, parameters.get("filename", parameters.get("filename*")))


def _malformed(message: str) -> ApiError:
    return invalid(message, code="malformed_form")
