"""The bytes of a record, the same in every tier and on the wire: a header of 256 bytes, then the payload.

    offset  bytes  field
    0       4      magic b"IGR3"
    4       4      length n of the description, little endian
    8       8      xxh3-64 of everything from offset 16 on, little endian
    16      n      description, a msgpack array: template, step, block, codec, dtype, shape, payload_bytes
    16+n    ...    zeros up to offset 256
    256     ...    payload

The magic's last character is the format version: a reader refuses every other one. A record names what it belongs
to, so that one which is filed in a wrong place is noticed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import msgpack
import xxhash

from instgenie_cache.errors import ChecksumError, RecordFormatError

FORMAT_VERSION = 3
MAGIC = f"IGR{FORMAT_VERSION}".encode()
HEADER_BYTES = 256
_PREFIX = struct.Struct("<4sIQ")


@dataclass(frozen=True, slots=True)
class RecordKey:
    """What a record is of: a template's block at a denoising step."""

    template: str
    step: int
    block: int

    def __str__(self) -> str:
        return f"{self.template}, step {self.step}, block {self.block}"


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


def encode_header(key: RecordKey, record: Record) -> bytes:
    """The 256 bytes that come before the record's payload.

    Raises:
        RecordFormatError: names or shape too long for a header.
    """
    description: bytes = msgpack.packb(
        (key.template, key.step, key.block, record.codec, record.dtype, record.shape, record.num_bytes)
    )
    room = HEADER_BYTES - _PREFIX.size
    if len(description) > room:
        raise RecordFormatError(f"a description of {len(description)} bytes does not fit a header, which has {room}")
    described = description.ljust(room, b"\0")
    return _PREFIX.pack(MAGIC, len(description), _checksum(described, record.payload)) + described


def encode_record(key: RecordKey, record: Record) -> bytes:
    """The record as bytes that `decode_record` reads back."""
    return b"".join((encode_header(key, record), record.payload))


def decode_record(data: bytes | bytearray | memoryview, key: RecordKey, *, verify: bool = True) -> Record:
    """Read a record; its payload is a view of `data`, not a copy.

    Args:
        key: what the record should be of.
        verify: compare the checksum; False is for bytes that were verified when they came into this memory.

    Raises:
        RecordFormatError: not a record of this version, cut short, or one of another key.
        ChecksumError: the header or the payload is not what was written.
    """
    view = memoryview(data)
    if len(view) < HEADER_BYTES:
        raise RecordFormatError(f"a record has at least {HEADER_BYTES} bytes, got {len(view)}")
    magic, description_bytes, checksum = _PREFIX.unpack_from(view)
    if magic != MAGIC:
        raise RecordFormatError(f"expected magic {MAGIC!r}, got {magic!r}")
    described, payload = view[_PREFIX.size : HEADER_BYTES], view[HEADER_BYTES:]
    if description_bytes > len(described):
        raise RecordFormatError(f"a description of {description_bytes} bytes does not fit a header")
    if verify and _checksum(described, payload) != checksum:
        raise ChecksumError(f"{key}: header and payload of {payload.nbytes} bytes do not match their xxh3-64")
    try:
        template, step, block, codec, dtype, shape, payload_bytes = msgpack.unpackb(described[:description_bytes])
        found = RecordKey(_text(template), _count(step), _count(block))
        record = Record(_text(codec), _text(dtype), tuple(_count(extent) for extent in shape), payload)
        payload_bytes = _count(payload_bytes)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise RecordFormatError(f"unreadable record header: {error!r}") from error
    if payload.nbytes != payload_bytes:
        raise RecordFormatError(f"the header promises {payload_bytes} payload bytes, there are {payload.nbytes}")
    if found != key:
        raise RecordFormatError(f"expected a record of {key}, got one of {found}")
    return record


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} is no count")
    return value


def _checksum(described: bytes | memoryview, payload: memoryview) -> int:
    digest = xxhash.xxh3_64(described)
    digest.update(payload)
    return digest.intdigest()
