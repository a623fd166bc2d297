"""Records as bytes: there and back, and every kind of damage noticed."""

from __future__ import annotations

import math
import struct

import msgpack
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from instgenie_cache import ChecksumError, Record, RecordFormatError, RecordKey, decode_record, encode_record
from instgenie_cache.records.record import HEADER_BYTES, MAGIC, encode_header

KEY = RecordKey("tenant/template", 3, 7)
RECORD = Record("raw", "float32", (2, 3, 1, 2), memoryview(bytes(range(48))))
COUNTS = st.integers(0, 2**63 - 1)


def with_description(description: object, payload: bytes = b"") -> bytes:
    """A record's bytes with any description, and the checksum that belongs to it."""
    packed: bytes = msgpack.packb(description)
    described = packed.ljust(HEADER_BYTES - 16, b"\0")
    return struct.pack("<4sIQ", MAGIC, len(packed), xxhash.xxh3_64_intdigest(described + payload)) + described + payload


@settings(deadline=None)
@given(
    st.builds(RecordKey, st.text(max_size=20), COUNTS, COUNTS),
    st.text(max_size=8),
    st.text(max_size=8),
    st.lists(st.integers(0, 2**40), max_size=5),
    st.binary(max_size=100),
    st.sampled_from([bytes, bytearray, memoryview]),
)
def test_round_trip(key: RecordKey, codec: str, dtype: str, shape: list[int], payload: bytes, kind: type) -> None:
    record = Record(codec, dtype, tuple(shape), memoryview(payload))
    data = encode_record(key, record)
    assert len(data) == HEADER_BYTES + len(payload)
    decoded = decode_record(kind(data), key)
    assert decoded == record
    assert decoded.num_bytes == len(payload)


def test_header_and_payload_are_the_record() -> None:
    assert encode_header(KEY, RECORD) + RECORD.payload == encode_record(KEY, RECORD)


def test_longest_names_fit_a_header() -> None:
    key = RecordKey("n" * 64 + "/" + "k" * 64, 2**31, 2**31)
    record = Record("int8-token-head", "bfloat16", (2, 65_536, 128, 128), memoryview(b""))
    assert decode_record(encode_record(key, record), key) == record


def test_description_that_does_not_fit_is_refused() -> None:
    with pytest.raises(RecordFormatError, match=r"\d+ bytes does not fit a header, which has 240"):
        encode_header(RecordKey("t" * 240, 0, 0), RECORD)


def test_payload_is_a_view_not_a_copy() -> None:
    data = bytearray(encode_record(KEY, RECORD))
    decoded = decode_record(memoryview(data), KEY)
    data[-1] = 99
    assert decoded.payload[-1] == 99


@pytest.mark.parametrize(
    "other", [RecordKey("tenant/other", 3, 7), RecordKey("tenant/template", 4, 7), RecordKey("tenant/template", 3, 6)]
)
@pytest.mark.parametrize("verify", [True, False])
def test_record_of_another_key_is_refused(other: RecordKey, verify: bool) -> None:
    with pytest.raises(RecordFormatError, match=f"expected a record of {other}, got one of {KEY}") as caught:
        decode_record(encode_record(KEY, RECORD), other, verify=verify)
    assert not isinstance(caught.value, ChecksumError)


def test_every_flipped_header_bit_is_noticed() -> None:
    data = bytearray(encode_record(KEY, RECORD))
    for position in range(HEADER_BYTES):
        for bit in range(8):
            data[position] ^= 1 << bit
            with pytest.raises(RecordFormatError if position < 8 else ChecksumError):
                decode_record(data, KEY)
            data[position] ^= 1 << bit
    assert decode_record(data, KEY) == RECORD


def test_every_flipped_payload_bit_is_noticed() -> None:
    data = bytearray(encode_record(KEY, RECORD))
    for position in range(HEADER_BYTES, len(data)):
        for bit in range(8):
            data[position] ^= 1 << bit
            with pytest.raises(ChecksumError, match="tenant/template, step 3, block 7: header and payload of 48 bytes"):
                decode_record(data, KEY)
            data[position] ^= 1 << bit
    assert decode_record(data, KEY) == RECORD


def test_bytes_that_were_verified_before_are_not_read_again() -> None:
    data = bytearray(encode_record(KEY, RECORD))
    data[-1] ^= 1
    assert decode_record(data, KEY, verify=False).payload[-1] == 46


@pytest.mark.parametrize("verify", [True, False])
def test_every_truncation_is_noticed(verify: bool) -> None:
    data = encode_record(KEY, RECORD)
    for length in range(len(data)):
        with pytest.raises(RecordFormatError):
            decode_record(data[:length], KEY, verify=verify)


def test_trailing_bytes_are_noticed() -> None:
    with pytest.raises(ChecksumError):
        decode_record(encode_record(KEY, RECORD) + b"x", KEY)
    with pytest.raises(RecordFormatError, match="promises 48 payload bytes, there are 49"):
        decode_record(encode_record(KEY, RECORD) + b"x", KEY, verify=False)


@pytest.mark.parametrize("magic", [b"IGR0", b"IGR2", b"IGR4", b"IGM3", b"\x89PNG", b"\0\0\0\0"])
def test_other_magic_is_refused(magic: bytes) -> None:
    with pytest.raises(RecordFormatError, match="expected magic b'IGR3', got") as caught:
        decode_record(magic + encode_record(KEY, RECORD)[4:], KEY)
    assert not isinstance(caught.value, ChecksumError)


@pytest.mark.parametrize(
    "description",
    [
        None,
        7,
        "codec",
        {},
        [1, 2],
        [],
        ["t", 0, 0, "raw", "uint8", [0]],
        ["t", 0, 0, "raw", "uint8", [0], 0, 0],
        [7, 0, 0, "raw", "uint8", [0], 0],
        ["t", -1, 0, "raw", "uint8", [0], 0],
        ["t", 0, True, "raw", "uint8", [0], 0],
        ["t", 0, 0.0, "raw", "uint8", [0], 0],
        ["t", 0, 0, None, "uint8", [0], 0],
        ["t", 0, 0, "raw", 8, [0], 0],
        ["t", 0, 0, "raw", "uint8", [-2], 0],
        ["t", 0, 0, "raw", "uint8", "12", 0],
        ["t", 0, 0, "raw", "uint8", 2, 0],
        ["t", 0, 0, "raw", "uint8", [None], 0],
        ["t", 0, 0, "raw", "uint8", [math.inf], 0],
        ["t", 0, 0, "raw", "uint8", [0], 0.9],
        ["t", 0, 0, "raw", "uint8", [0], "many"],
        ["t", 0, 0, "raw", "uint8", [0], math.nan],
        ["t", 0, 0, "raw", "uint8", [0], None],
    ],
    ids=repr,
)
def test_odd_descriptions_are_refused(description: object) -> None:
    with pytest.raises(RecordFormatError, match="unreadable record header"):
        decode_record(with_description(description), RecordKey("t", 0, 0))


def test_description_longer_than_a_header_is_refused_unread() -> None:
    for length in (HEADER_BYTES - 15, 2**32 - 1):
        with pytest.raises(RecordFormatError, match=f"description of {length} bytes does not fit"):
            decode_record(struct.pack("<4sI", MAGIC, length) + bytes(5000), KEY)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=HEADER_BYTES - 16), st.binary(max_size=60), st.booleans())
def test_garbage_is_refused(garbage: bytes, payload: bytes, verify: bool) -> None:
    described = garbage.ljust(HEADER_BYTES - 16, b"\0")
    checksum = xxhash.xxh3_64_intdigest(described + payload)
    with pytest.raises(RecordFormatError):
        decode_record(garbage + payload, KEY, verify=verify)
    well_formed = struct.pack("<4sIQ", MAGIC, len(garbage), checksum) + described + payload
    with pytest.raises(RecordFormatError):
        decode_record(well_formed, KEY, verify=verify)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_mutated_bytes_are_refused_or_read_as_what_was_written(data: st.DataObject) -> None:
    mutated = bytearray(encode_record(KEY, RECORD))
    for _ in range(data.draw(st.integers(1, 3), "edits")):
        position = data.draw(st.integers(0, len(mutated) - 1), "position")
        if data.draw(st.booleans(), "replace"):
            mutated[position] = data.draw(st.integers(0, 255), "byte")
        else:
            del mutated[position]
    try:
        decoded = decode_record(memoryview(mutated), KEY)
    except RecordFormatError:
        return
    assert decoded == RECORD
