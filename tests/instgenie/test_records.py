"""Tensors to records and back, bit by bit."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instgenie.models.segment import KeyValue
from instgenie.records import RecordForm, StepContext, StepRecorder, dtype_name, from_record, payload_tensor, to_record
from instgenie_cache import (
    ChecksumError,
    MemoryStore,
    Record,
    RecordFormatError,
    RecordKey,
    TemplateLease,
    TemplateSize,
    decode_record,
    encode_record,
)
from tests.instgenie.edits import TappedStore

CPU = torch.device("cpu")
KEY = RecordKey("t", 3, 1)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


def random_kv(tokens: int, dtype: torch.dtype = torch.float32, heads: int = 2, dim: int = 4, seed: int = 0) -> KeyValue:
    """K and V [L, H, D]."""
    both = torch.randn(2, tokens, heads, dim, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return KeyValue(both[0], both[1])


def form_of(record: Record, dtype: torch.dtype) -> RecordForm:
    """The form that the record has."""
    _, tokens, heads, dim = record.shape
    return RecordForm(dtype, tokens, heads, dim, 1)


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
    form = form_of(record, dtype)
    assert same_bits(from_record(record, form, CPU), kv)
    decoded = decode_record(kind(encode_record(KEY, record)), KEY)
    assert decoded.payload.readonly == (kind is bytes)
    assert same_bits(from_record(decoded, form, CPU), kv)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_payload_is_neither_copied_nor_lost(kind: type) -> None:
    """Also where it is read-only, which torch warns of."""
    memory = kind(range(256))
    tensor = payload_tensor(memoryview(memory)[16:])
    address = np.frombuffer(memory, np.uint8).ctypes.data
    assert tensor.data_ptr() == address + 16
    del memory
    gc.collect()
    assert tensor.tolist() == list(range(16, 256))


def test_odd_values_survive() -> None:
    values = torch.tensor([float("nan"), float("inf"), float("-inf"), -0.0, 1e-40, 3e38]).view(1, 1, 6)
    for dtype in (torch.float32, torch.bfloat16):
        kv = KeyValue(values.to(dtype), -values.to(dtype))
        record = to_record(kv)
        decoded = decode_record(encode_record(KEY, record), KEY)
        assert same_bits(from_record(decoded, form_of(record, dtype), CPU), kv)


def test_record_owns_its_memory() -> None:
    kv = random_kv(3)
    record = to_record(kv)
    before = bytes(record.payload)
    kv.key.zero_()
    assert bytes(record.payload) == before


def test_keys_and_values_may_be_views() -> None:
    whole = random_kv(6)
    part = KeyValue(whole.key[2:], whole.value[2:].transpose(0, 1).contiguous().transpose(0, 1))
    record = to_record(part)
    assert same_bits(from_record(record, form_of(record, torch.float32), CPU), part)


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_flipped_payload_byte_is_noticed(data: st.DataObject) -> None:
    record = to_record(random_kv(3))
    encoded = bytearray(encode_record(KEY, record))
    position = len(encoded) - 1 - data.draw(st.integers(0, record.num_bytes - 1))
    encoded[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ChecksumError):
        decode_record(memoryview(encoded), KEY)


FORM = RecordForm(torch.float32, tokens=6, heads=2, head_dim=4, blocks=2)
GOOD = to_record(random_kv(6))
BAD_RECORDS = [
    Record("int8", "float32", GOOD.shape, GOOD.payload),
    Record("raw", "float64", GOOD.shape, memoryview(bytes(2 * GOOD.num_bytes))),
    to_record(random_kv(6, torch.bfloat16)),  # of the same model in another dtype
    to_record(random_kv(5)),
    to_record(random_kv(6, heads=4, dim=2)),
    to_record(random_kv(6, dim=8)),
    Record("raw", "float32", (2, 6, 8), GOOD.payload),
    Record("raw", "float32", (1, *GOOD.shape[1:]), GOOD.payload),
    Record("raw", "float32", GOOD.shape, GOOD.payload[:-1]),
    Record("raw", "float32", (2, -6, -2, 4), GOOD.payload),
]


class GivingStore(TappedStore):
    """Gives these records, whatever it holds."""

    def __init__(self, records: list[Record]) -> None:
        super().__init__()
        self.records = records

    def read(self, template: str, step: int, records: Sequence[Record] | None) -> Sequence[Record]:
        return self.records


def giving(records: list[Record]) -> TemplateLease:
    """A lease under which every step has these records."""
    store = GivingStore(records)
    store.create("t", TemplateSize(0, 0, 0)).commit()
    lease = store.lease("t")
    assert lease is not None
    return lease


@pytest.mark.parametrize("record", BAD_RECORDS, ids=lambda record: f"{record.codec} {record.dtype} {record.shape}")
@pytest.mark.parametrize("block", [0, 1])
def test_record_that_is_not_the_models_keys_and_values(record: Record, block: int) -> None:
    records = [GOOD, GOOD]
    records[block] = record
    with pytest.raises(RecordFormatError):
        StepContext.open(giving(records), 0, FORM, torch.tensor([0]))


@pytest.mark.parametrize("blocks", [1, 3])
def test_step_of_another_number_of_blocks(blocks: int) -> None:
    with pytest.raises(RecordFormatError, match=f"{blocks} blocks, the model has 2"):
        StepContext.open(giving(blocks * [GOOD]), 0, FORM, torch.tensor([0]))


def test_size_of_a_template() -> None:
    assert FORM.record_bytes == GOOD.num_bytes == 2 * 6 * 2 * 4 * 4
    assert FORM.size(5) == TemplateSize(5, 2, GOOD.num_bytes)


def recorded(blocks: int, steps: int = 1) -> tuple[MemoryStore, list[KeyValue]]:
    """A store with template `t`, each step of which has the K and V that are returned."""
    store = MemoryStore(1 << 20)
    kvs = [random_kv(6, seed=block) for block in range(blocks)]
    with store.create("t", TemplateSize(steps, blocks, GOOD.num_bytes)) as writer:
        for step in range(steps):
            recorder = StepRecorder(writer, step)
            for block, kv in enumerate(kvs):
                recorder.record(block, kv)
        writer.commit()
    return store, kvs


def opened(store: MemoryStore, positions: list[int], step: int = 0) -> StepContext:
    """The context at those positions."""
    lease = store.lease("t")
    assert lease is not None
    context = StepContext.open(lease, step, FORM, torch.tensor(positions))
    assert context is not None
    return context


def test_context_gathers_the_edits_own_positions() -> None:
    store, kvs = recorded(blocks=2, steps=4)
    positions = [0, 2, 5]
    context = opened(store, positions, step=3)
    for block in (0, 0, 1, 0):
        expected = KeyValue(kvs[block].key[positions], kvs[block].value[positions])
        assert same_bits(context.context(block), expected)


def test_block_is_gathered_once_for_all_guidance_branches() -> None:
    context = opened(recorded(blocks=2)[0], [1])
    assert context.context(0).key is context.context(0).key


def test_no_context_where_a_step_is_missing() -> None:
    lease = recorded(blocks=2, steps=2)[0].lease("t")
    assert lease is not None
    assert StepContext.open(lease, 2, FORM, torch.tensor([1])) is None


def test_context_outlives_its_template() -> None:
    store, kvs = recorded(blocks=2)
    context = opened(store, [4])
    store.delete("t")
    assert same_bits(context.context(0), KeyValue(kvs[0].key[4:5], kvs[0].value[4:5]))


def test_dtype_names() -> None:
    assert [dtype_name(dtype) for dtype in (torch.float32, torch.bfloat16)] == ["float32", "bfloat16"]
