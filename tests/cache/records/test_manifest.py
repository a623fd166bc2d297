"""Manifests as bytes: there and back, and every kind of damage noticed."""

from __future__ import annotations

import math
import struct

import msgpack
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from instgenie_cache import ChecksumError, RecordFormatError, TemplateSize
from instgenie_cache.records.manifest import MAGIC, MAX_NOTE_BYTES, Manifest, decode_manifest, encode_manifest

COUNTS = st.integers(0, 2**63 - 1)
TIMES = st.floats(0, 1e12)
MANIFEST = Manifest("tenant/key", TemplateSize(20, 19, 600_000), 1234.5, 1.7e9, b"a note")


def with_body(body: object) -> bytes:
    """Bytes of any body, with the checksum that belongs to it."""
    packed: bytes = msgpack.packb(body)
    return struct.pack("<4sQ", MAGIC, xxhash.xxh3_64_intdigest(packed)) + packed


@settings(deadline=None)
@given(
    st.builds(
        Manifest,
        st.text(max_size=80),
        st.builds(TemplateSize, COUNTS, COUNTS, COUNTS),
        TIMES,
        TIMES,
        st.binary(max_size=MAX_NOTE_BYTES),
    )
)
def test_round_trip(manifest: Manifest) -> None:
    assert decode_manifest(encode_manifest(manifest)) == manifest
    assert decode_manifest(memoryview(encode_manifest(manifest))) == manifest


def test_every_flipped_bit_is_noticed() -> None:
    data = bytearray(encode_manifest(MANIFEST))
    for position in range(len(data)):
        for bit in range(8):
            data[position] ^= 1 << bit
            with pytest.raises(RecordFormatError if position < 4 else ChecksumError):
                decode_manifest(bytes(data))
            data[position] ^= 1 << bit
    assert decode_manifest(bytes(data)) == MANIFEST


def test_every_truncation_is_noticed() -> None:
    data = encode_manifest(MANIFEST)
    for length in range(len(data)):
        with pytest.raises(RecordFormatError):
            decode_manifest(data[:length])
    with pytest.raises(ChecksumError):
        decode_manifest(data + b"x")


@pytest.mark.parametrize("magic", [b"IGM2", b"IGM4", b"IGR3", b"\0\0\0\0"])
def test_other_version_is_refused(magic: bytes) -> None:
    with pytest.raises(RecordFormatError, match="expected magic b'IGM3', got"):
        decode_manifest(magic + encode_manifest(MANIFEST)[4:])


@pytest.mark.parametrize(
    "body",
    [
        None,
        7,
        "abcdef",
        [],
        ["t", 1, 2, 3, 0.0, 0.0],
        ["t", 1, 2, 3, 0.0, 0.0, b"", b""],
        [7, 1, 2, 3, 0.0, 0.0, b""],
        [None, 1, 2, 3, 0.0, 0.0, b""],
        ["t", -1, 2, 3, 0.0, 0.0, b""],
        ["t", 1, 2.0, 3, 0.0, 0.0, b""],
        ["t", 1, 2, True, 0.0, 0.0, b""],
        ["t", 1, 2, None, 0.0, 0.0, b""],
        ["t", 1, 2, 3, "x", 0.0, b""],
        ["t", 1, 2, 3, 0.0, None, b""],
        ["t", 1, 2, 3, [], 0.0, b""],
        ["t", 1, 2, 3, 0.0, 0.0, "text"],
        ["t", 1, 2, 3, 0.0, 0.0, None],
        ["t", 1, 2, 3, 0.0, 0.0, bytes(MAX_NOTE_BYTES + 1)],
    ],
    ids=lambda body: repr(body)[:40],
)
def test_odd_bodies_are_refused(body: object) -> None:
    with pytest.raises(RecordFormatError, match="unreadable manifest"):
        decode_manifest(with_body(body))


@pytest.mark.parametrize("cost", [math.nan, math.inf, -1.0])
def test_cost_that_eviction_could_not_weigh_is_refused(cost: float) -> None:
    with pytest.raises(RecordFormatError, match="unreadable manifest"):
        decode_manifest(with_body(["t", 1, 2, 3, cost, 0.0, b""]))


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60), st.booleans())
def test_garbage_is_refused(garbage: bytes, with_prefix: bool) -> None:
    prefix = struct.pack("<4sQ", MAGIC, xxhash.xxh3_64_intdigest(garbage)) if with_prefix else b""
    with pytest.raises(RecordFormatError):
        decode_manifest(prefix + garbage)
