"""Frames, the units of what clients and the cache service send each other. No I/O here.

offset  bytes  field
0       4      magic b"IGC1", whose last character is the format of frames
4       4      length n of the header, little endian, at most 64 KiB
8       8      length of the payload, little endian
16      n      header, a msgpack map with text keys: see `messages`
16+n    ...    payload, raw bytes
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from instgenie_cache.errors import ProtocolError

MAGIC = b"IGC1"
MAX_HEADER_BYTES = 64 * 1024
PREFIX_BYTES = 16
_PREFIX = struct.Struct("<4sIQ")
_READ_AHEAD_BYTES = PREFIX_BYTES + MAX_HEADER_BYTES  # so that the longest head fits
# msgpack makes room for as many items as an array says it has, whether they come or not, at each of 1000 levels.
MAX_ITEMS = 4096
_MAX_LEVELS = 4  # of maps and arrays within each other

Sink = Callable[[dict[str, Any], int], Sequence[memoryview] | None]


class SinkBusyError(Exception):
    """Raised by a sink that has no room for a payload just now. It is asked again by `FrameReader.again`."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that has come whole.

    Attributes:
        views: where its payload lies, in order; None where the sink did not want it. Empty where there is no payload.
    """

    header: dict[str, Any]
    payload_bytes: int
    views: Sequence[memoryview] | None


def encode_frame_head(header: Mapping[str, Any], payload_bytes: int) -> bytes:
    """Prefix and header of a frame; its payload is to follow.

    Raises:
        ProtocolError: the header is longer than `MAX_HEADER_BYTES`.
    """
    packed: bytes = msgpack.packb(header)
    if len(packed) > MAX_HEADER_BYTES:
        raise ProtocolError(f"a header of {len(packed)} bytes, {MAX_HEADER_BYTES} are allowed")
    return _PREFIX.pack(MAGIC, len(packed), payload_bytes) + packed


def decode_prefix(
    data: bytes | bytearray | memoryview, max_payload_bytes: int, max_header_bytes: int = MAX_HEADER_BYTES
) -> tuple[int, int]:
    """Lengths of header and payload from the first `PREFIX_BYTES` of a frame.

    Raises:
        ProtocolError: no frame of this format, or longer than allowed.
    """
    magic, header_bytes, payload_bytes = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise ProtocolError(f"a frame begins with {MAGIC!r}, got {magic!r}")
    if header_bytes > max_header_bytes:
        raise ProtocolError(f"a header of {header_bytes} bytes, {max_header_bytes} are allowed")
    if payload_bytes > max_payload_bytes:
        raise ProtocolError(f"a payload of {payload_bytes} bytes, {max_payload_bytes} are allowed")
    return header_bytes, payload_bytes


def decode_header(data: bytes | bytearray | memoryview) -> dict[str, Any]:
    """The header's map.

    Raises:
        ProtocolError: not a msgpack map with text keys.
    """
    try:
        header = msgpack.unpackb(
            data, max_array_len=MAX_ITEMS, max_map_len=MAX_ITEMS, max_bin_len=MAX_ITEMS, max_ext_len=0
        )
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError(f"unreadable header: {repr(error)[:200]}") from error
    if not isinstance(header, dict) or not all(isinstance(key, str) for key in header):
        raise ProtocolError("a header is a map with text keys")
    if not _is_shallow(header.values(), _MAX_LEVELS - 1):
        raise ProtocolError(f"a header of more than {_MAX_LEVELS} levels")
    return header


def _is_shallow(items: Iterable[Any], levels: int) -> bool:
    for item in items:
        if isinstance(item, (list, dict)):
            below = item.values() if isinstance(item, dict) else item
            if levels == 0 or not _is_shallow(below, levels - 1):
                return False
    return True


class FrameReader:
    """Cuts what comes from a socket into frames.

    Bytes are taken by the following, over and over: `buffer`, reading from the socket into it, `filled`. Small frames
    are read many at a time; a large payload is received where its sink wants it, but for its beginning and end, which
    are copied.
    """

    def __init__(self, max_payload_bytes: int, sink: Sink) -> None:
        """Args:
        max_payload_bytes: of a frame.
        sink: is given the header and the length of a payload, unless that is 0, and says where the payload is to be
            written: views of exactly that many bytes in all, or None, which throws it away. `SinkBusyError`: there are
            no more frames, and nothing is to be read, until `again`.
        """
        self._max_payload_bytes = max_payload_bytes
        self._sink = sink
        self._ahead = memoryview(bytearray(_READ_AHEAD_BYTES))
        self._begin = self._end = 0  # of what was read ahead and is not yet used
        self._payload: _Payload | None = None
        self._is_in_place = False  # the last buffer was a payload's

    @property
    def is_within_frame(self) -> bool:
        """Some bytes of a frame have come, and others have not."""
        return self._payload is not None or self._end > self._begin

    def forget(self) -> None:
        """Nothing more comes: let go of the payload that was being received and of the sink."""
        self._payload = None
        self._sink = _no_sink

    def buffer(self) -> memoryview:
        """Where the next bytes go; never empty."""
        place = self._payload.place() if self._payload is not None else None
        self._is_in_place = place is not None and place.nbytes >= _READ_AHEAD_BYTES
        if self._is_in_place:
            assert place is not None
            return place
        if self._begin:
            rest = self._end - self._begin
            self._ahead[:rest] = self._ahead[self._begin : self._end]
            self._begin, self._end = 0, rest
        return self._ahead[self._end :]

    def filled(self, num_bytes: int) -> Iterator[Frame]:
        """The frames that are complete now that the buffer's first `num_bytes` have come.

        To be used up before the next `buffer`. The sink of a frame is asked only when the frame before it was taken.

        Raises:
            ProtocolError: what came is no frame. Nothing more is to be read then.
        """
        if self._is_in_place:
            assert self._payload is not None
            self._payload.advance(num_bytes)
        else:
            self._end += num_bytes
        return self._frames()

    def again(self) -> Iterator[Frame]:
        """The frames that are complete and were not taken yet, instead of what `filled` returned."""
        return self._frames()

    def _frames(self) -> Iterator[Frame]:
        while self._payload is not None or self._read_head():
            payload = self._payload
            assert payload is not None
            self._begin += payload.take(self._ahead[self._begin : self._end])
            if payload.missing_bytes:
                return
            self._payload = None
            yield payload.frame

    def _read_head(self) -> bool:
        """Take a frame's prefix and header from what was read ahead, or return False where they are not whole yet."""
        ahead = self._ahead[self._begin : self._end]
        if ahead.nbytes < PREFIX_BYTES:
            return False
        header_bytes, payload_bytes = decode_prefix(ahead, self._max_payload_bytes)
        head_bytes = PREFIX_BYTES + header_bytes
        if ahead.nbytes < head_bytes:
            return False
        header = decode_header(ahead[PREFIX_BYTES:head_bytes])
        try:
            views = self._sink(header, payload_bytes) if payload_bytes else ()
        except SinkBusyError:
            return False
        self._begin += head_bytes
        self._payload = _Payload(Frame(header, payload_bytes, views))
        return True


def _no_sink(_header: dict[str, Any], _payload_bytes: int) -> None:
    return None


class _Payload:
    """A payload that is being received."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.missing_bytes = frame.payload_bytes
        self._places: list[memoryview] | None = None
        if frame.views is not None:
            self._places = [view.cast("B") for view in reversed(frame.views) if view.nbytes]  # the next one is last
            room = sum(place.nbytes for place in self._places)
            assert room == frame.payload_bytes, f"views of {room} bytes for a payload of {frame.payload_bytes}"

    def place(self) -> memoryview | None:
        """Where the next bytes go, None where they are thrown away."""
        return self._places[-1] if self._places else None

    def advance(self, num_bytes: int) -> None:
        """Note that bytes were written to `place`."""
        self.missing_bytes -= num_bytes
        if self._places:
            self._places[-1] = self._places[-1][num_bytes:]
            if not self._places[-1].nbytes:
                self._places.pop()

    def take(self, ahead: memoryview) -> int:
        """Copy from what was read ahead; returns how many bytes of it were the payload's."""
        taken = 0
        while self.missing_bytes and taken < ahead.nbytes:
            place = self.place()
            room = self.missing_bytes if place is None else place.nbytes
            length = min(room, ahead.nbytes - taken)
            if place is not None:
                place[:length] = ahead[taken : taken + length]
            self.advance(length)
            taken += length
        return taken
