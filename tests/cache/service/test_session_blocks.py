"""A connection's requests for some blocks of a step, and for where steps are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from instgenie_cache import TemplateSize
from instgenie_cache.records.record import RecordKey, decode_record
from instgenie_cache.service import session_leases
from instgenie_cache.stores.tiered_store import TieredStore
from instgenie_cache.tiers.pages import Extent
from instgenie_cache.wire.messages import Fetch, Lease, Release, Tiers
from tests.cache.session_driver import Driver, Side
from tests.cache.session_templates import values
from tests.cache.small_stores import FakeTier, fill_template, tiered_store, values_of
from tests.cache.tiered import SlowTier

SIZE = TemplateSize(steps=2, blocks=4, record_bytes=700)  # a page a step
VALUES = values_of(SIZE, first=5)


@pytest.fixture
def disk() -> FakeTier:
    """Holds template `t`."""
    disk = FakeTier()
    before = tiered_store(disk)
    fill_template(before, "t", SIZE, first=5)
    before.close()
    return FakeTier(content=disk)


@pytest.fixture
def cold(disk: FakeTier) -> Iterator[TieredStore]:
    """A store with template `t` on its disk alone."""
    store = tiered_store(disk)
    yield store
    store.close()


@pytest.fixture
def side(cold: TieredStore) -> Iterator[Side]:
    side = Side(cold)
    yield side
    side.close()


async def leased(side: Side, *, maps_arena: bool = False) -> Driver:
    client = side.client(maps_arena=maps_arena)
    assert (await client.ask(Lease(template="t")))[0]["lease"] == 1
    return client


def block_values(step: int, first: int, stop: int, memory: bytes) -> list[int]:
    """What the records are full of; between them there must be zeros."""
    assert len(memory) == SIZE.offset(stop - first)
    found: list[int] = []
    for place, block in enumerate(range(first, stop)):
        begin, end = SIZE.offset(place), SIZE.offset(place) + SIZE.stored_record_bytes
        found += set(decode_record(memory[begin:end], RecordKey("t", step, block)).payload)
        assert not any(memory[end : SIZE.offset(place + 1)])
    return found


@pytest.mark.parametrize("maps_arena", [False, True])
async def test_blocks_that_are_not_in_memory_are_sent(
    side: Side, cold: TieredStore, disk: FakeTier, maps_arena: bool
) -> None:
    client = await leased(side, maps_arena=maps_arena)
    for first, stop in ((1, 3), (0, 1), (0, 4)):
        header, memory = await client.ask(Fetch(lease=1, step=1, blocks=[first, stop]))
        assert (header["lost"], header["pieces"]) == (False, None)
        assert block_values(1, first, stop, memory) == VALUES[1][first:stop]
    assert disk.read_blocks == [range(1, 3), range(1), range(4)]
    assert cold.host.used_bytes == 0
    await client.settle(lambda: side.context.private.used_bytes == 0)


async def test_blocks_of_a_step_in_memory_are_cut_out_of_it(side: Side, cold: TieredStore, disk: FakeTier) -> None:
    client = await leased(side)
    await client.ask(Fetch(lease=1, step=1))
    assert cold.host.evictable_bytes == cold.host.used_bytes > 0
    _, memory = await client.ask(Fetch(lease=1, step=1, blocks=[2, 4]))
    assert block_values(1, 2, 4, memory) == VALUES[1][2:]
    assert disk.read_blocks == [None]
    await client.settle(lambda: cold.host.evictable_bytes == cold.host.used_bytes)


async def test_a_client_that_maps_the_arena_is_told_where_all_of_the_step_is(side: Side, cold: TieredStore) -> None:
    client = await leased(side, maps_arena=True)
    await client.ask(Fetch(lease=1, step=0))
    await client.ask(Release(lease=1, step=0))
    header, payload = await client.ask(Fetch(lease=1, step=0, blocks=[1, 2]))
    assert payload == b""
    slab = cold.arena.slab(tuple(Extent(*piece) for piece in header["pieces"]))
    assert values("t", SIZE, 0, bytes(slab.read(0, SIZE.step_bytes))) == VALUES[0]
    assert cold.host.evictable_bytes == 0  # it stays until it is released
    await client.ask(Release(lease=1, step=0))
    assert cold.host.evictable_bytes == cold.host.used_bytes


@pytest.mark.parametrize(
    ("step", "blocks", "is_lost"),
    [(0, [2, 2], False), (0, [3, 2], True), (0, [0, 5], True), (2, [0, 1], True), (0, [0, 1 << 63], True)],
)
async def test_blocks_that_are_none(side: Side, step: int, blocks: list[int], is_lost: bool) -> None:
    for maps_arena in (False, True):
        client = await leased(side, maps_arena=maps_arena)
        header, memory = await client.ask(Fetch(lease=1, step=step, blocks=blocks))
        assert (header["lost"], header["pieces"], memory) == (is_lost, None, b"")


@pytest.mark.parametrize("blocks", [[], [1], [1, 2, 3]])
async def test_blocks_are_told_by_two_numbers(side: Side, blocks: list[int]) -> None:
    client = await leased(side)
    header, _ = await client.ask(Fetch(lease=1, step=0, blocks=blocks))
    assert (header["error"], header["message"]) == ("protocol", f"blocks are told by two numbers, not {len(blocks)}")
    assert "error" not in (await client.ask(Fetch(lease=1, step=0, blocks=[0, 1])))[0]


async def test_a_harmed_record_is_lost_and_its_template_dropped(side: Side, cold: TieredStore, disk: FakeTier) -> None:
    disk.flip(RecordKey("t", 0, 2), position=300)
    client = await leased(side)
    assert (await client.ask(Fetch(lease=1, step=0, blocks=[0, 2])))[0]["lost"] is False
    assert (await client.ask(Fetch(lease=1, step=0, blocks=[2, 3])))[0]["lost"] is True
    assert not cold.holds("t")


async def test_blocks_that_are_not_read_take_a_share_of_the_memory_and_give_it_back(cold: TieredStore) -> None:
    side = Side(cold, private_bytes=3 * SIZE.stride_bytes)
    slow, other = await leased(side), await leased(side)
    slow.transport.read(0)  # no more is read
    number = slow.send(Fetch(lease=1, step=0, blocks=[0, 2]))
    await slow.settle(lambda: bool(slow.transport.unread))
    assert side.context.private.used_bytes == 2 * SIZE.stride_bytes
    refused, _ = await other.ask(Fetch(lease=1, step=0, blocks=[0, 2]))
    assert refused["error"] == "full"
    assert "error" not in (await other.ask(Fetch(lease=1, step=0, blocks=[0, 1])))[0]
    slow.transport.read()
    assert block_values(0, 0, 2, (await slow.reply(number))[1]) == VALUES[0][:2]
    await slow.settle(lambda: side.context.private.used_bytes == 0)
    side.close()


async def test_a_client_that_goes_while_blocks_are_sent_leaves_nothing(side: Side, cold: TieredStore) -> None:
    client = await leased(side)
    client.transport.read(0)
    client.send(Fetch(lease=1, step=0, blocks=[0, 2]))
    await client.settle(lambda: bool(client.transport.unread))
    await client.lose()
    await client.settle(lambda: side.context.private.used_bytes == 0)
    assert not cold._state.entries["t"].is_held


@pytest.mark.parametrize("is_gone", [False, True])
async def test_a_lease_that_is_released_while_its_blocks_are_read(is_gone: bool) -> None:
    disk = SlowTier()
    store = tiered_store(disk, pages=2)
    for name in ("t", "newer"):  # for which `t` leaves the memory
        fill_template(store, name, SIZE)
        store.flush()
    side = Side(store)
    disk.may_read.clear()
    disk.is_reading.clear()
    client = await leased(side)
    number = client.send(Fetch(lease=1, step=0, blocks=[0, 2]))
    await client.settle(disk.is_reading.is_set)
    if is_gone:
        await client.lose()
    else:
        await client.ask(Release(lease=1))
    disk.may_read.set()
    if not is_gone:
        assert (await client.reply(number))[0]["message"] == "the lease was released"
    await client.settle(lambda: not store._state.entries["t"].is_held)
    await client.settle(lambda: side.context.private.used_bytes == side.context.private.loading_bytes == 0)
    side.close()
    store.close()


async def test_requests_for_blocks_are_bounded(cold: TieredStore) -> None:
    side = Side(cold, requests=1)
    client = await leased(side)
    client.transport.read(0)
    client.send(Fetch(lease=1, step=0, blocks=[0, 1]))
    refused = client.send(Fetch(lease=1, step=0, blocks=[0, 1]))
    client.transport.read()
    assert (await client.reply(refused))[0]["message"] == (
        "1 requests are in progress on this connection, more are not allowed"
    )
    side.close()


async def test_tiers_are_told_step_by_step(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await leased(side)
    assert (await client.ask(Tiers(lease=1)))[0]["tiers"] == ["disk", "disk"]
    await client.ask(Fetch(lease=1, step=1))
    assert (await client.ask(Tiers(lease=1)))[0]["tiers"] == ["disk", "host"]
    assert (await client.ask(Tiers(lease=2)))[0]["message"] == "there is no lease 2"
    monkeypatch.setattr(session_leases, "MAX_TIERS", 1)
    header, _ = await client.ask(Tiers(lease=1))
    assert header["message"] == "a template of 2 steps; the tiers of 1 fit into a reply"
