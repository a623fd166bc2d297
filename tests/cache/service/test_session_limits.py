"""What a client of the service may not do to others: bounds, ends, refusals of the disk."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from instgenie_cache import TemplateSize
from instgenie_cache.records.manifest import Manifest
from instgenie_cache.service.private_memory import PrivateMemory
from instgenie_cache.service.session_leases import SessionLeases
from instgenie_cache.service.session_limits import SessionLimits
from instgenie_cache.service.session_writers import MAX_COST_MS
from instgenie_cache.service.workers import Workers, WorkerShare
from instgenie_cache.stores.tiered_store import TieredStore
from instgenie_cache.wire.frames import encode_frame_head
from instgenie_cache.wire.messages import (
    Abort,
    Commit,
    Fetch,
    Flush,
    Lease,
    Pin,
    Put,
    Release,
    Stat,
    Sweep,
)
from tests.cache.session_driver import Driver, Side, record_bytes
from tests.cache.session_templates import ONE, SIZE, create, values, write
from tests.cache.small_stores import PAGE_BYTES, RECORD_BYTES, FakeTier, fill_template, tiered_store


@pytest.fixture
def disk() -> FakeTier:
    return FakeTier()


@pytest.fixture
def cold(disk: FakeTier) -> Iterator[TieredStore]:
    """A store with a disk."""
    cold = tiered_store(disk)
    yield cold
    disk.gate.set()
    cold.close()


async def commit_while_the_disk_waits(client: Driver, disk: FakeTier, template: str, *, durable: bool) -> int:
    """Begin a commit whose records the disk does not take until its gate is set."""
    disk.gate.clear()
    writer = (await client.ask(create(template, ONE)))[0]["writer"]
    await client.ask(Put(writer=writer, step=0, block=0), record_bytes(template, 0, 0, 0, RECORD_BYTES))
    return client.send(Commit(writer=writer, durable=durable))


async def test_what_need_not_wait_is_not_refused_when_too_much_does(cold: TieredStore, disk: FakeTier) -> None:
    side = Side(cold, requests=1)
    client = side.client()
    await client.ask(create("t", TemplateSize(1, 2, RECORD_BYTES)))
    await client.ask(Put(writer=1, step=0, block=0), record_bytes("t", 0, 0, 7, RECORD_BYTES))
    waiting = await commit_while_the_disk_waits(client, disk, "other", durable=True)
    assert (await client.ask(Flush()))[0]["message"] == (
        "1 requests are in progress on this connection, more are not allowed"
    )
    garbage = bytearray(record_bytes("t", 0, 0, 7, RECORD_BYTES))
    garbage[-1] ^= 1
    assert (await client.ask(Put(writer=1, step=0, block=0), bytes(garbage)))[0]["error"] == "checksum"
    assert (await client.ask(Commit(writer=1)))[0]["error"] == "checksum"
    for message in (Release(lease=1), Abort(writer=2), Pin(template="t", pinned=False)):
        assert "error" not in (await client.ask(message))[0]
    disk.gate.set()
    assert "error" not in (await client.reply(waiting))[0]
    side.close()


async def test_a_put_that_nobody_wants_takes_no_memory(side: Side, store: TieredStore) -> None:
    fill_template(store, "t", ONE)
    client = side.client()
    num_bytes = 8 << 20
    await client.ask(create("t", TemplateSize(1, 1, num_bytes)))
    head = encode_frame_head({"id": 9, "op": "put", "writer": 1, "step": 0, "block": 0}, 256 + num_bytes)
    piece = bytes(65536)
    tracemalloc.start()
    try:
        client.feed(head + bytes(256))
        for _ in range(num_bytes // len(piece)):
            client.feed(piece)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert "error" not in (await client.reply(9))[0]
    assert "error" not in (await client.ask(Commit(writer=1)))[0]
    await client.ask(Lease(template="t"))
    assert values("t", ONE, 0, (await client.ask(Fetch(lease=1, step=0)))[1]) == [0]


async def test_a_session_is_gone_with_its_connection(side: Side) -> None:
    client = side.client()
    await client.ask(create("t", ONE))
    client.feed(encode_frame_head({"id": 9, "op": "put", "writer": 1, "step": 0, "block": 0}, PAGE_BYTES) + b"x" * 1000)
    gc.disable()
    try:
        gone = weakref.ref(client.session)
        await client.lose()
        del client.session, client.connection
        assert gone() is None
    finally:
        gc.enable()


async def test_what_the_disk_refused_is_told(cold: TieredStore, disk: FakeTier) -> None:
    side = Side(cold)
    client = side.client()
    disk.full_after = 0
    for durable in (True, False):
        number = await commit_while_the_disk_waits(client, disk, f"t{durable}", durable=durable)
        disk.gate.set()
        assert (await client.reply(number))[0].get("error") == ("full" if durable else None)
    assert (await client.ask(Flush()))[0]["error"] == "full"
    assert "error" not in (await client.ask(Flush()))[0]  # it is told once
    disk.full_after = None
    await write(client, "after", ONE)
    assert "error" not in (await client.ask(Flush()))[0]
    assert "after" in disk.committed
    side.close()


async def test_a_flush_tells_of_commits_that_are_too_many_to_remember(cold: TieredStore, disk: FakeTier) -> None:
    side = Side(cold, unflushed=1)
    client = side.client()
    disk.full_after = 0
    await client.reply(await commit_while_the_disk_waits(client, disk, "refused", durable=False))
    disk.gate.set()
    await client.settle(lambda: disk.full_after == -1)
    disk.full_after = None
    for name in ("a", "b"):
        await write(client, name, ONE)
    reply = (await client.ask(Flush()))[0]
    assert (reply["error"], "more than 1 templates waited" in reply["message"]) == ("cache", True)
    assert disk.committed.keys() == {"a", "b"}
    assert "error" not in (await client.ask(Flush()))[0]
    side.close()


async def test_flushes_that_are_asked_for_meanwhile_wait_too(cold: TieredStore, disk: FakeTier) -> None:
    side = Side(cold)
    client = side.client()
    await client.reply(await commit_while_the_disk_waits(client, disk, "t", durable=False))
    flushes = [client.send(Flush()) for _ in range(3)]
    # They take one of the two threads for what waits.
    assert "error" not in (await side.client().ask(Sweep()))[0]
    assert not set(flushes) & client.replies.keys()
    disk.gate.set()
    for number in flushes:
        assert "error" not in (await client.reply(number))[0]
    assert "t" in disk.committed
    side.close()


async def test_what_the_disk_refused_is_told_to_all_who_wait(cold: TieredStore, disk: FakeTier) -> None:
    """A client whose deadline passed asks again, and hears no answer but the last."""
    side = Side(cold)
    client = side.client()
    disk.full_after = 0
    await client.reply(await commit_while_the_disk_waits(client, disk, "refused", durable=False))
    flushes = [client.send(Flush()) for _ in range(3)]
    assert "error" not in (await client.ask(Release(lease=1)))[0]  # so that they have begun
    disk.gate.set()
    for number in flushes:
        assert (await client.reply(number))[0]["error"] == "full"
    assert "error" not in (await client.ask(Flush()))[0]
    side.close()


async def test_a_flush_need_not_remember_what_was_on_disk_and_went() -> None:
    disk = FakeTier(ONE.stored_bytes)
    store = tiered_store(disk)
    side = Side(store, unflushed=2)
    client = side.client()
    for number in range(5):
        await write(client, f"t{number}", ONE)
        store.flush()
        fill_template(store, "other", ONE)  # for which it is evicted
        store.flush()
        store.delete("other")
    assert "error" not in (await client.ask(Flush()))[0]
    side.close()
    store.close()


async def test_a_cost_is_an_hour_at_most(cold: TieredStore, disk: FakeTier) -> None:
    side = Side(cold)
    client = side.client()
    await client.ask(create("t", ONE))
    await client.ask(Put(writer=1, step=0, block=0), record_bytes("t", 0, 0, 0, RECORD_BYTES))
    assert "error" not in (await client.ask(Commit(writer=1, cost_ms=1e300, durable=True)))[0]
    assert disk.committed["t"].cost_ms == MAX_COST_MS
    side.close()


async def test_a_put_without_a_number_leaves_nothing(side: Side, store: TieredStore) -> None:
    client = side.client()
    await client.ask(create("t", ONE))
    put = encode_frame_head({"id": 0, "op": "put", "writer": 1, "step": 0, "block": 0}, PAGE_BYTES)
    client.feed(put + bytes(PAGE_BYTES))
    assert store.host.used_bytes == 0
    await client.connection.wait_closed()
    assert side.metric("instgenie_cache_unanswered_put_bytes") == 0


async def test_a_tenant_announces_no_more_than_its_share(store: TieredStore) -> None:
    side = Side(store, announced_bytes=3 * PAGE_BYTES)
    first, second, other = side.client("a"), side.client("a"), side.client()
    await first.ask(create("a/1", TemplateSize(2, 1, RECORD_BYTES)))
    refused, _ = await second.ask(create("a/2", TemplateSize(2, 1, RECORD_BYTES)))
    assert (refused["error"], refused["message"]) == (
        "full",
        "namespace 'a' may have 12288 bytes announced at a time, 8192 are, and 8192 are to be",
    )
    assert "error" not in (await other.ask(create("b/1", TemplateSize(8, 1, RECORD_BYTES))))[0]
    await first.ask(Abort(writer=1))
    assert "error" not in (await second.ask(create("a/2", TemplateSize(3, 1, RECORD_BYTES))))[0]
    await second.lose()
    await write(first, "a/3", TemplateSize(3, 1, RECORD_BYTES))
    assert "error" not in (await first.ask(create("a/4", TemplateSize(3, 1, RECORD_BYTES))))[0]
    side.close()


async def test_a_writer_that_nothing_is_put_to_is_aborted(store: TieredStore) -> None:
    side = Side(store, idle_seconds=0.2, announced_bytes=SIZE.stored_bytes)
    client = side.client("a")
    await client.ask(create("a/t"))
    await client.ask(Put(writer=1, step=0, block=0), record_bytes("a/t", 0, 0, 0, RECORD_BYTES))
    assert store.host.used_bytes == SIZE.step_bytes
    await client.settle(lambda: store.host.used_bytes == 0)
    reply, _ = await client.ask(Commit(writer=1))
    assert reply["message"] == "the writer was aborted: nothing was put for 0.2 s"
    assert "error" not in (await client.ask(create("a/t")))[0]  # what it had announced may be announced again
    side.close()


async def test_a_writer_that_something_is_put_to_goes_on(store: TieredStore) -> None:
    side = Side(store, idle_seconds=1.0)
    client = side.client()
    await client.ask(create("t"))
    for _ in range(4):  # each in time, all of them not
        await asyncio.sleep(0.3)
        payload = record_bytes("t", 0, 0, 0, RECORD_BYTES)
        assert "error" not in (await client.ask(Put(writer=1, step=0, block=0), payload))[0]
    side.close()


class _SlowTier(FakeTier):
    """Reads and lookups wait until they are let."""

    def __init__(self, *, is_shared: bool = False) -> None:
        super().__init__(name="object" if is_shared else "disk", is_shared=is_shared)
        self.may_read = threading.Event()

    def read_step(self, *arguments: Any, **options: Any) -> bool:
        assert self.may_read.wait(10)
        return super().read_step(*arguments, **options)

    def manifest(self, template: str) -> Manifest | None:
        assert self.may_read.wait(10)
        return super().manifest(template)


async def test_a_step_that_is_released_while_it_is_fetched_is_not_kept() -> None:
    disk = _SlowTier()
    store = tiered_store(disk, pages=1)
    side = Side(store)
    for name in ("t", "newer"):  # for which `t` leaves the memory
        fill_template(store, name, ONE)
        store.flush()
    client = side.client(maps_arena=True)
    await client.ask(Lease(template="t"))
    first = client.send(Fetch(lease=1, step=0))
    await client.ask(Release(lease=1, step=0))
    disk.may_read.set()
    assert (await client.reply(first))[0]["message"] == "step 0 was released while it was fetched"
    assert store.host.evictable_bytes == store.host.used_bytes
    assert (await client.ask(Fetch(lease=1, step=0)))[0]["pieces"] == [[0, PAGE_BYTES]]
    assert store.host.evictable_bytes == 0
    side.close()
    store.close()


async def test_a_far_tier_that_does_not_answer_holds_up_those_alone_who_ask_it() -> None:
    far = _SlowTier(is_shared=True)
    store = tiered_store(far, pages=2000)
    side = Side(store, loads=2)  # of 4 threads
    waiting = side.client("a")
    numbers = [waiting.send(Lease(template=f"a/{number}")) for number in range(20)]
    client = side.client("b")
    size = TemplateSize(1, 1, 3 << 20)
    await client.ask(create("b/t", size))  # which looks nothing up
    payload = record_bytes("b/t", 0, 0, 1, size.record_bytes)
    assert "error" not in (await client.ask(Put(writer=1, step=0, block=0), payload))[0]
    assert "error" not in (await client.ask(Commit(writer=1)))[0]
    assert (await client.ask(Lease(template="b/t")))[0]["lease"] == 1
    far.may_read.set()
    for number in numbers:
        assert (await waiting.reply(number))[0]["lease"] is None
    side.close()
    store.close()


async def test_lookups_that_wait_hold_up_nothing_that_is_known() -> None:
    """Of the same client: neither leases nor steps from the disk."""
    far, disk = _SlowTier(is_shared=True), FakeTier()
    store = tiered_store(disk, far, pages=1)
    for name in ("t", "newer"):  # for which `t` leaves the memory
        fill_template(store, name, ONE)
        store.flush()
    side = Side(store, loads=2)
    client = side.client()
    numbers = [client.send(Lease(template=f"unknown{number}")) for number in range(4)]
    async with asyncio.timeout(10):
        assert (await client.ask(Stat(template="t")))[0]["templates"] == 1
        assert (await client.ask(Pin(template="t", pinned=True)))[0]["held"]
        assert (await client.ask(Lease(template="t")))[0]["tier"] == "disk"
        assert "error" not in (await client.ask(Fetch(lease=1, step=0)))[0]
    assert disk.reads
    far.may_read.set()
    for number in numbers:
        assert (await client.reply(number))[0]["lease"] is None
    side.close()
    store.close()


async def _stop(side: Side, _client: Driver) -> None:
    side.context.is_stopping.set()


async def _lose(_side: Side, client: Driver) -> None:
    await client.lose()


@pytest.mark.parametrize("end", [_stop, _lose])
async def test_a_sweep_that_nobody_waits_for_is_broken_off(end: Callable[[Side, Driver], object]) -> None:
    disk = _SlowTier()
    store = tiered_store(disk)
    side = Side(store)
    fill_template(store, "t", TemplateSize(4, 1, RECORD_BYTES))
    store.flush()
    client = side.client()
    number = client.send(Sweep())
    await asyncio.sleep(0)  # it begins
    awaitable = end(side, client)
    assert asyncio.iscoroutine(awaitable)
    await awaitable
    disk.may_read.set()
    if end is _stop:
        assert "not everything was verified" in (await client.reply(number))[0]["message"]
    await asyncio.to_thread(side.close)
    assert len(disk.reads) <= 1
    store.close()


async def test_a_client_that_waits_for_its_own_turn_holds_up_nobody() -> None:
    workers, limits = Workers(), SessionLimits()
    private = PrivateMemory(8 * SIZE.step_bytes)
    away = threading.Event()

    class _Lease:
        size, tier, note = SIZE, "disk", b""

        def __init__(self, waits: bool) -> None:
            self.waits = waits

        def resident(self, step: int) -> None:
            return None

        def load(self, step: int) -> None:
            assert not self.waits or away.wait(10)

        def drop(self, step: int) -> None:
            pass

        def release(self) -> None:
            pass

    greedy, other = (
        SessionLeases(WorkerShare(workers.run_loading, 4), private, limits, maps_arena=False) for _ in range(2)
    )
    for leases, waits in ((greedy, True), (other, False)):
        leases.add(_Lease(waits))  # type: ignore[arg-type]
    held = greedy.held(1)
    waiting = [asyncio.ensure_future(greedy.fetch(held, greedy.use(held, 0))) for _ in range(32)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        reply, _ = await other.fetch(other.held(1), other.use(other.held(1), 0))
    assert reply.lost
    away.set()
    await asyncio.gather(*waiting)
    await asyncio.to_thread(workers.close)
