"""Records as bytes: there and back, and every kind of damage noticed."""

from __future__ import annotations

import math
import struct

import msgpack
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from instgenie_cache import ChecksumError, Record, RecordFormatError, decode_record, encode_record
from instgenie_cache.record import MAGIC

RECORD = Record("raw", "float32", (2, 3, 1, 2), memoryview(bytes(range(48))))


def with_header(header: object, payload: bytes = b"") -> bytes:
    """A record's bytes with any header."""
    packed: bytes = msgpack.packb(header)
    checksum = xxhash.xxh3_64(packed + payload).intdigest()
    return struct.pack("<4sIQ", MAGIC, len(packed), checksum) + packed + payload


def header_of(data: bytes) -> bytes:
    """The bytes before the payload of `RECORD`."""
    return data[: len(data) - RECORD.num_bytes]


@settings(deadline=None, max_examples=25)
@given(
    st.text(max_size=8),
    st.text(max_size=8),
    st.lists(st.integers(0, 2**40), max_size=5),
    st.binary(max_size=100),
    st.sampled_from([bytes, bytearray, memoryview]),
)
def test_round_trip(codec: str, dtype: str, shape: list[int], payload: bytes, kind: type) -> None:
    record = Record(codec, dtype, tuple(shape), memoryview(payload))
    decoded = decode_record(kind(encode_record(record)))
    assert decoded == record
    assert decoded.num_bytes == len(payload)


def test_payload_is_a_view_not_a_copy() -> None:
    data = bytearray(encode_record(RECORD))
    decoded = decode_record(memoryview(data))
    data[-1] = 99
    assert decoded.payload[-1] == 99


def test_every_flipped_payload_byte_is_noticed() -> None:
    data = bytearray(encode_record(RECORD))
    for position in range(len(data) - RECORD.num_bytes, len(data)):
        data[position] ^= 1
        with pytest.raises(ChecksumError, match="48 bytes"):
            decode_record(memoryview(data))
        data[position] ^= 1
    assert decode_record(memoryview(data)) == RECORD


def test_every_truncation_is_noticed() -> None:
    data = encode_record(RECORD)
    for length in range(len(data)):
        with pytest.raises(RecordFormatError):
            decode_record(data[:length])


def test_trailing_bytes_are_noticed() -> None:
    with pytest.raises(RecordFormatError, match="48 payload bytes, there are 49"):
        decode_record(encode_record(RECORD) + b"x")


@pytest.mark.parametrize("magic", [b"IGR0", b"IGR2", b"\x89PNG", b"\0\0\0\0"])
def test_other_magic_is_refused(magic: bytes) -> None:
    with pytest.raises(RecordFormatError, match="expected magic b'IGR1', got") as caught:
        decode_record(magic + encode_record(RECORD)[4:])
    assert not isinstance(caught.value, ChecksumError)


@pytest.mark.parametrize(
    "header",
    [
        None,
        7,
        "codec",
        [1, 2],
        {},
        {"codec": "raw", "dtype": "float32", "shape": [-2], "payload_bytes": 0},
        {"codec": "raw", "dtype": "float32", "shape": "12", "payload_bytes": 0},
        {"codec": None, "dtype": "float32", "shape": [2], "payload_bytes": 0},
        {"codec": "raw", "dtype": "float32", "shape": [2], "payload_bytes": 0.9},
        {"codec": "raw", "dtype": "float32", "shape": 2, "payload_bytes": 0},
        {"codec": "raw", "dtype": "float32", "shape": [None], "payload_bytes": 0},
        {"codec": "raw", "dtype": "float32", "shape": [2], "payload_bytes": "many"},
        {"codec": "raw", "dtype": "float32", "shape": [2], "payload_bytes": math.nan},
        {"codec": "raw", "dtype": "float32", "shape": [2], "payload_bytes": math.inf},
        {"codec": "raw", "dtype": "float32", "shape": [math.inf], "payload_bytes": 0},
        {1: 2},
    ],
    ids=repr,
)
def test_odd_headers_are_refused(header: object) -> None:
    with pytest.raises(RecordFormatError):
        decode_record(with_header(header))


def test_huge_header_is_refused_unread() -> None:
    payload = bytes(5000)
    header = {
        "codec": "x" * 5000,
        "dtype": "float32",
        "shape": [5000],
        "payload_bytes": 5000,
        "xxh3_64": xxhash.xxh3_64_intdigest(payload),
    }
    with pytest.raises(RecordFormatError, match="does not fit"):
        decode_record(with_header(header, payload))
    with pytest.raises(RecordFormatError, match="header of 4294967295 bytes"):
        decode_record(struct.pack("<4sI", MAGIC, 2**32 - 1) + payload)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=60), st.booleans())
def test_garbage_is_refused(garbage: bytes, with_prefix: bool) -> None:
    prefix = struct.pack("<4sI", MAGIC, len(garbage)) if with_prefix else b""
    with pytest.raises(RecordFormatError):
        decode_record(prefix + garbage)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_mutated_bytes_are_refused_or_read_as_what_was_written(data: st.DataObject) -> None:
    written = encode_record(RECORD)
    mutated = bytearray(written)
    for _ in range(data.draw(st.integers(1, 3), "edits")):
        position = data.draw(st.integers(0, len(mutated) - 1), "position")
        if data.draw(st.booleans(), "replace"):
            mutated[position] = data.draw(st.integers(0, 255), "byte")
        else:
            del mutated[position]
    try:
        decoded = decode_record(memoryview(mutated))
    except RecordFormatError:
        return
    assert decoded == RECORD


def test_every_flipped_header_bit_is_noticed() -> None:
    data = bytearray(encode_record(RECORD))
    for position in range(len(header_of(bytes(data)))):
        for bit in range(8):
            data[position] ^= 1 << bit
            with pytest.raises(RecordFormatError):
                decode_record(memoryview(data))
            data[position] ^= 1 << bit
