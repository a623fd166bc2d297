"""Frames: the same whatever the pieces in which they come, and nothing but ProtocolError from garbage."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, cycle, pairwise
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie_cache.errors import ProtocolError
from instgenie_cache.wire.frames import (
    MAGIC,
    MAX_HEADER_BYTES,
    Frame,
    FrameReader,
    decode_header,
    encode_frame_head,
)

MAX_PAYLOAD_BYTES = 400_000
HEADERS = st.dictionaries(
    st.text(max_size=5), st.none() | st.booleans() | st.integers(0, 2**60) | st.text(max_size=9), max_size=4
)
# Around the 64 KiB that are read ahead: whole in it, across its end, mostly received in place.
LENGTHS = st.sampled_from([0, 1, 2, 300, 65_000, 65_552, 65_553, 131_200, 300_000])
CUTS = st.lists(st.sampled_from([1, 2, 3, 15, 16, 17, 100, 4096, 65_552, 10**6]), min_size=1, max_size=6)


def payload_of(num_bytes: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(num_bytes)


def feed(reader: FrameReader, data: bytes, cuts: Iterable[int] = (10**6,)) -> list[Frame]:
    """Read from a socket that has so many bytes at a time, the last one over and over."""
    frames: list[Frame] = []
    left = memoryview(data)
    sizes = chain(cuts, cycle([10**6]))
    while left:
        buffer = reader.buffer()
        assert buffer.nbytes > 0
        taken = min(next(sizes), buffer.nbytes, left.nbytes)
        buffer[:taken] = left[:taken]
        left = left[taken:]
        frames += reader.filled(taken)
    return frames


def in_pieces(num_pieces: int) -> Callable[[dict[str, Any], int], list[memoryview]]:
    """A sink that scatters payloads over several pieces of new memory."""

    def sink(_header: dict[str, Any], payload_bytes: int) -> list[memoryview]:
        bounds = np.linspace(0, payload_bytes, num_pieces + 1).astype(int)
        return [memoryview(bytearray(int(end - begin))) for begin, end in pairwise(bounds)]

    return sink


def content(frame: Frame) -> bytes:
    assert frame.views is not None
    return b"".join(frame.views)


def thrown_away(_header: dict[str, Any], _payload_bytes: int) -> Sequence[memoryview] | None:
    return None


@given(st.lists(st.tuples(HEADERS, LENGTHS), max_size=5), CUTS, st.integers(1, 4))
def test_frames_are_the_same_however_the_stream_is_cut(
    sent: list[tuple[dict[str, Any], int]], cuts: list[int], num_pieces: int
) -> None:
    payloads = [payload_of(length, seed) for seed, (_, length) in enumerate(sent)]
    stream = b"".join(
        encode_frame_head(header, length) + payload for (header, length), payload in zip(sent, payloads, strict=True)
    )
    frames = feed(FrameReader(MAX_PAYLOAD_BYTES, in_pieces(num_pieces)), stream, cuts * 1000)
    assert [(frame.header, frame.payload_bytes) for frame in frames] == sent
    assert [content(frame) for frame in frames] == payloads


def test_frames_cut_at_every_place() -> None:
    sent: list[tuple[dict[str, Any], bytes]] = [({"id": 1}, b"abc"), ({}, b""), ({"id": 2, "text": "xyz"}, b"defgh")]
    stream = b"".join(encode_frame_head(header, len(payload)) + payload for header, payload in sent)
    for first in range(len(stream) + 1):
        for second in range(len(stream) + 1 - first):
            frames = feed(FrameReader(10, in_pieces(2)), stream, filter(None, (first, second)))
            assert [(frame.header, content(frame)) for frame in frames] == sent


@given(st.lists(LENGTHS, min_size=1, max_size=4), CUTS)
def test_payload_that_nobody_wants_is_thrown_away(lengths: list[int], cuts: list[int]) -> None:
    stream = b"".join(encode_frame_head({"id": n}, n) + payload_of(n, 0) for n in lengths)
    frames = feed(FrameReader(MAX_PAYLOAD_BYTES, thrown_away), stream, cuts * 1000)
    assert [(frame.header, frame.views) for frame in frames] == [({"id": n}, None if n else ()) for n in lengths]


def test_large_payload_is_received_in_place_and_small_frames_together() -> None:
    memory = memoryview(bytearray(1_000_000))
    reader = FrameReader(1_000_000, lambda *_: [memory])
    head = encode_frame_head({}, len(memory))
    buffer = reader.buffer()
    buffer[: len(head)] = head
    assert list(reader.filled(len(head))) == []
    assert reader.buffer().nbytes == len(memory)
    reader.buffer()[:5] = b"01234"
    assert list(reader.filled(5)) == []
    assert bytes(memory[:6]) == b"01234\0"

    small = encode_frame_head({}, 0)
    reader = FrameReader(0, thrown_away)
    reader.buffer()[: 1000 * len(small)] = small * 1000
    assert len(list(reader.filled(1000 * len(small)))) == 1000


def test_sink_is_asked_once_the_frame_before_was_taken() -> None:
    order: list[object] = []

    def sink(header: dict[str, Any], payload_bytes: int) -> None:
        order.append(("sink", header["id"], payload_bytes))

    stream = encode_frame_head({"id": 1}, 0) + encode_frame_head({"id": 2}, 3) + b"abc"
    reader = FrameReader(10, sink)
    reader.buffer()[: len(stream)] = stream
    order.extend(frame.header["id"] for frame in reader.filled(len(stream)))
    assert order == [1, ("sink", 2, 3), 2]


def packed(value: object) -> bytes:
    """A frame with that as its header, whatever it is."""
    header: bytes = msgpack.packb(value)
    return struct.pack("<4sIQ", MAGIC, len(header), 0) + header


def nested(levels: int) -> object:
    return [nested(levels - 1)] if levels else 0


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"IGC2" + bytes(12), "begins with b'IGC1', got b'IGC2'"),
        (b"GET / HTTP/1.1\r\n", "got b'GET '"),
        (struct.pack("<4sIQ", MAGIC, MAX_HEADER_BYTES + 1, 0), "a header of 65537 bytes, 65536 are allowed"),
        (struct.pack("<4sIQ", MAGIC, 1, 101), "a payload of 101 bytes, 100 are allowed"),
        (packed([1, 2]), "a map with text keys"),
        (packed({b"id": 1}), "a map with text keys"),
        (packed({1: 1}), "unreadable header"),
        (packed({"a": msgpack.ExtType(1, b"x")}), "unreadable header"),
        (packed({"a": [0] * 4097}), "unreadable header"),
        (packed({"a": nested(4)}), "more than 4 levels"),
        (packed({"a": nested(400)}), "more than 4 levels"),
        (struct.pack("<4sIQ", MAGIC, 0, 0), "unreadable header"),
        (struct.pack("<4sIQ", MAGIC, 5, 0) + b"\x81\xa1a\xdd\xff", "unreadable header"),  # an array cut short
        (struct.pack("<4sIQ", MAGIC, 2, 0) + b"\x80\x80", "unreadable header"),  # two maps
    ],
)
def test_what_is_no_frame_is_refused(stream: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        feed(FrameReader(100, thrown_away), stream)


def test_header_may_have_four_levels() -> None:
    (frame,) = feed(FrameReader(100, thrown_away), packed({"a": nested(3)}))
    assert frame.header == {"a": nested(3)}


def test_frames_before_the_bad_one_are_taken() -> None:
    reader = FrameReader(100, thrown_away)
    stream = packed({"id": 1}) + b"garbage, and long enough"
    reader.buffer()[: len(stream)] = stream
    frames = reader.filled(len(stream))
    assert next(frames).header == {"id": 1}
    with pytest.raises(ProtocolError):
        next(frames)


def test_header_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="65536 are allowed"):
        encode_frame_head({"a": "x" * MAX_HEADER_BYTES}, 0)
    assert len(encode_frame_head({"a": "x" * (MAX_HEADER_BYTES - 6)}, 0)) == 16 + MAX_HEADER_BYTES


@st.composite
def mutated_streams(draw: st.DrawFn) -> bytes:
    """Good frames with some bytes changed, cut out or put in."""
    frames = draw(st.lists(st.tuples(HEADERS, st.binary(max_size=40)), min_size=1, max_size=4))
    stream = bytearray(b"".join(encode_frame_head(header, len(data)) + data for header, data in frames))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(stream)))
        stream[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=9))
    return bytes(stream)


@given(mutated_streams() | st.binary(max_size=300), CUTS)
def test_mutated_frames_raise_nothing_but_protocol_errors(stream: bytes, cuts: list[int]) -> None:
    asked = []

    def sink(_header: dict[str, Any], payload_bytes: int) -> list[memoryview]:
        asked.append(payload_bytes)
        return [memoryview(bytearray(payload_bytes))]

    try:
        frames = feed(FrameReader(1000, sink), stream, cuts)
    except ProtocolError:
        frames = []
    assert all(payload_bytes <= 1000 for payload_bytes in asked)
    assert all(len(content(frame)) == frame.payload_bytes for frame in frames)


@given(st.binary(max_size=100) | st.binary(max_size=20).map(lambda data: b"\x81\xa1a" + data))
def test_header_from_any_bytes_is_a_map_with_text_keys_or_refused(data: bytes) -> None:
    try:
        header = decode_header(data)
    except ProtocolError:
        return
    assert all(isinstance(key, str) for key in header)
