"""The bytes of a record: a header that describes and protects them, then the payload.

    offset  bytes  field
    0       4      magic b"IGR1"
    4       4      header length n, little endian
    8       8      xxh3-64 of header and payload, little endian
    16      n      header, a msgpack map: codec, dtype, shape, payload_bytes
    16+n    ...    payload

The magic's last character is the format version: a reader refuses every other one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import msgpack
import xxhash

from instgenie_cache.errors import ChecksumError, RecordFormatError

FORMAT_VERSION = 1
MAGIC = f"IGR{FORMAT_VERSION}".encode()
_PREFIX = struct.Struct("<4sIQ")
_MAX_HEADER_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Record:
    """Payload bytes and what they mean: `dtype` names the element type before the codec, `shape` the array's."""

    codec: str
    dtype: str
    shape: tuple[int, ...]
    payload: memoryview

    @property
    def num_bytes(self) -> int:
        """Length of the payload in bytes."""
        return self.payload.nbytes


def encode_record(record: Record) -> bytes:
    """The record as bytes that `decode_record` reads back."""
    header = msgpack.packb(
        {
            "codec": record.codec,
            "dtype": record.dtype,
            "shape": record.shape,
            "payload_bytes": record.num_bytes,
        }
    )
    return b"".join((_PREFIX.pack(MAGIC, len(header), _checksum(header, record.payload)), header, record.payload))


def decode_record(data: bytes | memoryview) -> Record:
    """Read a record; its payload is a view of `data`, not a copy.

    Raises:
        RecordFormatError: not a record of this version, or cut short.
        ChecksumError: the header or the payload is not what was written.
    """
    view = memoryview(data)
    if len(view) < _PREFIX.size:
        raise RecordFormatError(f"a record has at least {_PREFIX.size} bytes, got {len(view)}")
    magic, header_bytes, checksum = _PREFIX.unpack_from(view)
    if magic != MAGIC:
        raise RecordFormatError(f"expected magic {MAGIC!r}, got {magic!r}")
    start = _PREFIX.size + header_bytes
    if header_bytes > _MAX_HEADER_BYTES or start > len(view):
        raise RecordFormatError(f"header of {header_bytes} bytes does not fit a record of {len(view)} bytes")
    try:
        header = msgpack.unpackb(view[_PREFIX.size : start])
        codec, dtype = _text(header["codec"]), _text(header["dtype"])
        shape = tuple(_count(extent) for extent in header["shape"])
        payload_bytes = _count(header["payload_bytes"])
    except (ValueError, TypeError, KeyError, OverflowError, msgpack.UnpackException) as error:
        raise RecordFormatError(f"unreadable record header: {error!r}") from error
    payload = view[start:]
    if payload.nbytes != payload_bytes:
        raise RecordFormatError(f"the header promises {payload_bytes} payload bytes, there are {payload.nbytes}")
    if _checksum(view[_PREFIX.size : start], payload) != checksum:
        raise ChecksumError(f"header and payload of {payload_bytes} bytes do not match their xxh3-64")
    return Record(codec, dtype, shape, payload)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} is no count")
    return value


def _checksum(header: bytes | memoryview, payload: memoryview) -> int:
    digest = xxhash.xxh3_64(header)
    digest.update(payload)
    return digest.intdigest()
