"""Tensors to records and back, bit by bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instgenie.models.segment import KeyValue
from instgenie.records import StepContext, StepRecorder, dtype_name, from_record, to_record
from instgenie_cache import (
    ChecksumError,
    MemoryStore,
    Record,
    RecordFormatError,
    RecordKey,
    decode_record,
    encode_record,
)

CPU = torch.device("cpu")
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


def random_kv(tokens: int, dtype: torch.dtype = torch.float32, heads: int = 2, dim: int = 4, seed: int = 0) -> KeyValue:
    """K and V [L, H, D]."""
    both = torch.randn(2, tokens, heads, dim, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return KeyValue(both[0], both[1])


def same_bits(actual: KeyValue, expected: KeyValue) -> bool:
    """Whether dtype and bits agree, NaN included."""
    pairs = list(zip(actual, expected, strict=True))
    return all(a.dtype == e.dtype and torch.equal(bits(a), bits(e)) for a, e in pairs)


def bits(x: Tensor) -> Tensor:
    """The bytes of a tensor."""
    return x.contiguous().view(torch.uint8)


@settings(deadline=None, max_examples=25)
@given(
    DTYPES,
    st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 5)),
    st.sampled_from([bytes, bytearray]),  # a read-only payload, and one that may be written to
)
def test_round_trip_is_exact(dtype: torch.dtype, shape: tuple[int, int, int], kind: type) -> None:
    tokens, heads, dim = shape
    kv = random_kv(tokens, dtype, heads, dim)
    record = to_record(kv)
    assert (record.codec, record.dtype, record.shape) == ("raw", dtype_name(dtype), (2, tokens, heads, dim))
    assert record.num_bytes == 2 * kv.key.nbytes
    assert same_bits(from_record(record, CPU), kv)
    decoded = decode_record(kind(encode_record(record)))
    assert decoded.payload.readonly == (kind is bytes)
    assert same_bits(from_record(decoded, CPU), kv)


def test_odd_values_survive() -> None:
    values = torch.tensor([float("nan"), float("inf"), float("-inf"), -0.0, 1e-40, 3e38]).view(1, 1, 6)
    for dtype in (torch.float32, torch.bfloat16):
        kv = KeyValue(values.to(dtype), -values.to(dtype))
        assert same_bits(from_record(decode_record(encode_record(to_record(kv))), CPU), kv)


def test_record_owns_its_memory() -> None:
    kv = random_kv(3)
    record = to_record(kv)
    before = bytes(record.payload)
    kv.key.zero_()
    assert bytes(record.payload) == before


def test_keys_and_values_may_be_views() -> None:
    whole = random_kv(6)
    part = KeyValue(whole.key[2:], whole.value[2:].transpose(0, 1).contiguous().transpose(0, 1))
    assert same_bits(from_record(to_record(part), CPU), part)


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_flipped_payload_byte_is_noticed(data: st.DataObject) -> None:
    record = to_record(random_kv(3))
    encoded = bytearray(encode_record(record))
    position = len(encoded) - 1 - data.draw(st.integers(0, record.num_bytes - 1))
    encoded[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ChecksumError):
        decode_record(memoryview(encoded))


BAD_RECORDS = [
    Record("int8", "float32", (2, 1, 1, 1), memoryview(bytes(8))),
    Record("raw", "float64", (2, 1, 1, 1), memoryview(bytes(16))),
    Record("raw", "float32", (2, 1, 1), memoryview(bytes(8))),
    Record("raw", "float32", (1, 1, 1, 1), memoryview(bytes(4))),
    Record("raw", "float32", (2, 1, 1, 1), memoryview(bytes(7))),
    Record("raw", "float32", (2, -1, -1, 1), memoryview(bytes(8))),
    Record("raw", "float32", (2, 0, 1, 1), memoryview(b"")),
]


@pytest.mark.parametrize("record", BAD_RECORDS, ids=lambda record: f"{record.codec} {record.dtype} {record.shape}")
def test_record_that_is_not_keys_and_values(record: Record) -> None:
    with pytest.raises(RecordFormatError):
        from_record(record, CPU)
    store = MemoryStore(1000)
    store.put(RecordKey("t", 0, 0), record)
    store.commit("t")
    with pytest.raises(RecordFormatError):
        StepContext.open(store, "t", 0, 1, torch.tensor([0]), CPU)


def recorded(blocks: int, tokens: int, step: int = 3) -> tuple[MemoryStore, list[KeyValue]]:
    """A store with one step of template `t`, and what went in."""
    store = MemoryStore(1 << 20)
    recorder = StepRecorder(store, "t", step)
    kvs = [random_kv(tokens, seed=block) for block in range(blocks)]
    for block, kv in enumerate(kvs):
        recorder.record(block, kv)
    store.commit("t")
    return store, kvs


def test_context_gathers_the_edits_own_positions() -> None:
    store, kvs = recorded(blocks=3, tokens=6)
    positions = torch.tensor([0, 2, 5])
    context = StepContext.open(store, "t", 3, 3, positions, CPU)
    assert context is not None
    for block in (0, 0, 1, 2, 1):
        expected = KeyValue(kvs[block].key[positions], kvs[block].value[positions])
        assert same_bits(context.context(block), expected)


def test_block_is_gathered_once_for_all_guidance_branches() -> None:
    store, _ = recorded(blocks=2, tokens=6)
    context = StepContext.open(store, "t", 3, 2, torch.tensor([1]), CPU)
    assert context is not None
    assert context.context(0).key is context.context(0).key


def test_no_context_where_a_block_or_step_is_missing() -> None:
    store, _ = recorded(blocks=2, tokens=6)
    positions = torch.tensor([1])
    assert StepContext.open(store, "t", 3, 3, positions, CPU) is None
    assert StepContext.open(store, "t", 2, 2, positions, CPU) is None
    assert StepContext.open(store, "other", 3, 2, positions, CPU) is None


def test_context_outlives_its_template() -> None:
    store, kvs = recorded(blocks=1, tokens=6)
    context = StepContext.open(store, "t", 3, 1, torch.tensor([4]), CPU)
    store.delete("t")
    assert context is not None
    assert same_bits(context.context(0), KeyValue(kvs[0].key[4:5], kvs[0].value[4:5]))


def test_dtype_names() -> None:
    assert [dtype_name(dtype) for dtype in (torch.float32, torch.bfloat16)] == ["float32", "bfloat16"]
