"""A connection's requests, against a real store in a small arena."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator

import pytest

from instgenie_cache import TemplateSize
from instgenie_cache.records.manifest import MAX_NOTE_BYTES
from instgenie_cache.records.record import RecordKey
from instgenie_cache.stores.tiered_lease import TieredLease
from instgenie_cache.stores.tiered_store import TieredStore
from instgenie_cache.tiers.pages import Extent
from instgenie_cache.wire.frames import encode_frame_head
from instgenie_cache.wire.messages import (
    Abort,
    Commit,
    Delete,
    Fetch,
    Flush,
    Lease,
    List,
    Metrics,
    Pin,
    Prefetch,
    Put,
    Release,
    Stat,
    Sweep,
)
from tests.cache.session_driver import Side, record_bytes
from tests.cache.session_templates import ONE, SIZE, create, values, write
from tests.cache.small_stores import PAGE_BYTES, RECORD_BYTES, FakeTier, fill_template, tiered_store


async def test_what_was_put_is_fetched(side: Side) -> None:
    client = side.client()
    await write(client, "t", first=5)
    lease, _ = await client.ask(Lease(template="t"))
    assert lease == {
        "id": lease["id"],
        "lease": 1,
        "tier": "host",
        "steps": 2,
        "blocks": 2,
        "record_bytes": 3840,
        "note": b"",
    }
    for step in range(2):
        header, memory = await client.ask(Fetch(lease=1, step=step))
        assert header == {"id": header["id"], "lost": False, "pieces": None}
        assert values("t", SIZE, step, memory) == [5 + 2 * step, 6 + 2 * step]


async def test_a_client_that_maps_the_arena_is_told_where_a_step_is(side: Side, store: TieredStore) -> None:
    fill_template(store, "t", SIZE, first=1)
    client = side.client(maps_arena=True)
    await client.ask(Lease(template="t"))
    header, payload = await client.ask(Fetch(lease=1, step=1))
    assert payload == b""
    slab = store.arena.slab(tuple(Extent(*piece) for piece in header["pieces"]))
    assert values("t", SIZE, 1, bytes(slab.read(0, SIZE.step_bytes))) == [3, 4]


async def test_a_mapped_step_stays_until_it_is_released() -> None:
    disk = FakeTier()
    cold = tiered_store(disk, pages=4)
    own = Side(cold)
    fill_template(cold, "t", SIZE)
    cold.flush()
    client = own.client(maps_arena=True)
    await client.ask(Lease(template="t"))
    await client.ask(Fetch(lease=1, step=0))
    used = cold.host.total_bytes - cold.host.free_bytes - cold.host.evictable_bytes
    assert used == SIZE.step_bytes
    await client.ask(Release(lease=1, step=0))
    assert cold.host.free_bytes + cold.host.evictable_bytes == cold.host.total_bytes
    own.close()
    cold.close()


async def test_an_unknown_template_is_a_miss_everywhere(side: Side) -> None:
    client = side.client()
    assert (await client.ask(Lease(template="no")))[0]["lease"] is None
    assert (await client.ask(Pin(template="no")))[0]["held"] is False
    assert (await client.ask(Stat(template="no")))[0]["templates"] == 0
    for message in (Prefetch(template="no"), Delete(template="no"), Release(lease=7), Abort(writer=7)):
        header, _ = await client.ask(message)
        assert header == {"id": header["id"]}


async def test_a_step_that_the_template_does_not_have_is_lost(side: Side, store: TieredStore) -> None:
    fill_template(store, "t", SIZE)
    for client in (side.client(), side.client(maps_arena=True)):
        await client.ask(Lease(template="t"))
        assert (await client.ask(Fetch(lease=1, step=2)))[0]["lost"] is True


async def test_a_tenant_sees_nothing_of_another(side: Side, store: TieredStore) -> None:
    for name in ("a/t", "b/t", "ab/t", "t"):
        fill_template(store, name, ONE)
    client = side.client("a")
    assert (await client.ask(List()))[0]["templates"] == ["a/t"]
    assert (await client.ask(Stat()))[0]["templates"] == 1
    for foreign in ("b/t", "ab/t", "t"):
        assert (await client.ask(Lease(template=foreign)))[0]["lease"] is None
        assert (await client.ask(Pin(template=foreign)))[0]["held"] is False
        assert (await client.ask(Stat(template=foreign)))[0]["templates"] == 0
        await client.ask(Delete(template=foreign))
        await client.ask(Prefetch(template=foreign))
        refused, _ = await client.ask(create(foreign + "2", ONE))
        assert refused["message"] == f"template {foreign}2 is not within namespace 'a'"
    assert (await client.ask(Lease(template="a/t")))[0]["lease"] is not None
    assert (await client.ask(Metrics()))[0]["error"] == "cache"
    assert (await side.client().ask(List()))[0]["templates"] == ["a/t", "ab/t", "b/t", "t"]


async def test_a_sweep_is_of_the_clients_templates_alone() -> None:
    disk = FakeTier()
    store = tiered_store(disk)
    side = Side(store)
    for name in ("a/t", "b/t"):
        fill_template(store, name, SIZE)
    store.flush()
    disk.flip(RecordKey("b/t", 0, 0))
    swept, _ = await side.client("a").ask(Sweep())
    assert (swept["records"], swept["dropped"]) == (4, 0)
    swept, _ = await side.client().ask(Sweep())
    assert (swept["records"], swept["dropped"]) == (6, 1)  # the rest of a broken one is not looked at
    assert (await side.client().ask(List()))[0]["templates"] == ["a/t"]
    side.close()
    store.close()


async def test_a_list_says_that_there_is_more(side: Side, store: TieredStore) -> None:
    for number in range(5):
        fill_template(store, f"t{number}", ONE)
    client = side.client()
    first, _ = await client.ask(List(limit=3))
    assert (first["templates"], first["num_bytes"], first["more"]) == (["t0", "t1", "t2"], [RECORD_BYTES] * 3, True)
    rest, _ = await client.ask(List(after="t2", limit=3))
    assert (rest["templates"], rest["more"]) == (["t3", "t4"], False)


async def test_what_is_no_request_gets_an_error_and_the_next_one_an_answer(side: Side) -> None:
    client = side.client()
    for header, message in (
        ({"op": "fly"}, "unknown operation 'fly'"),
        ({"op": ["put"]}, "unknown operation ['put']"),
        ({}, "unknown operation None"),
        ({"op": "lease"}, "Lease lacks a field"),
        ({"op": "lease", "template": 1}, "Lease.template is not to be 1"),
        ({"op": "list", "colour": "red"}, "List has no field 'colour'"),
        (
            {"op": "hello", "version": 1, "client": "x", "namespace": None, "arena": "none"},
            "hello was said before",
        ),
    ):
        reply, _ = await client.reply(client.send_header(header))
        assert reply["error"] == "protocol"
        assert message in reply["message"]
    assert "error" not in (await client.ask(Stat()))[0]


async def test_a_payload_where_none_belongs_is_thrown_away(side: Side) -> None:
    client = side.client()
    assert (await client.ask(Stat(), b"x" * 200_000))[0]["message"] == "stat has no payload, 200000 bytes came"
    reply, _ = await client.reply(client.send_header({"op": "put", "wrong": 1}, b"x" * 200_000))
    assert "Put has no field 'wrong'" in reply["message"]
    assert "error" not in (await client.ask(Stat()))[0]


@pytest.mark.parametrize("number", [0, -1, None, "1", True, 1.5])
async def test_a_request_without_a_number_ends_the_connection(side: Side, number: object) -> None:
    client = side.client()
    client.send_header({"id": number, "op": "stat"})
    assert (await client.reply(0))[0]["error"] == "protocol"
    await client.connection.wait_closed()


async def test_a_put_of_another_length_is_refused_and_the_writer_with_it(side: Side, store: TieredStore) -> None:
    client = side.client()
    await client.ask(create("t"))
    refused, _ = await client.ask(Put(writer=1, step=0, block=0), b"x" * 100)
    assert refused["message"] == "a record of 100 bytes, 4096 were announced, header included"
    later, _ = await client.ask(Put(writer=1, step=0, block=0), record_bytes("t", 0, 0, 0, RECORD_BYTES))
    assert later["message"] == refused["message"]
    assert (await client.ask(Commit(writer=1)))[0]["message"] == refused["message"]
    assert (await client.ask(Commit(writer=1)))[0]["message"] == "there is no writer 1"
    assert (await client.ask(Put(writer=1, step=0, block=0)))[0]["error"] == "protocol"
    assert (await client.ask(Put(writer=9, step=0, block=0), b"x"))[0]["message"] == "there is no writer 9"
    assert store.host.free_bytes == store.host.total_bytes


async def test_a_record_that_is_none_is_refused(side: Side, store: TieredStore) -> None:
    client = side.client()
    await client.ask(create("t"))
    payload = bytearray(record_bytes("t", 0, 0, 0, RECORD_BYTES))
    payload[2000] ^= 1
    assert (await client.ask(Put(writer=1, step=0, block=0), bytes(payload)))[0]["error"] == "checksum"
    await client.ask(create("u"))
    foreign = record_bytes("t", 0, 0, 0, RECORD_BYTES)
    assert (await client.ask(Put(writer=2, step=0, block=0), foreign))[0]["error"] == "record_format"
    assert store.host.free_bytes == store.host.total_bytes


async def test_a_large_record_is_verified_too() -> None:
    size = TemplateSize(1, 1, 3 << 20)
    store = tiered_store(pages=2000)
    side = Side(store)
    client = side.client()
    await write(client, "t", size, first=7)
    await client.ask(Lease(template="t"))
    _, memory = await client.ask(Fetch(lease=1, step=0))
    assert values("t", size, 0, memory) == [7]
    await client.ask(create("u", size))
    payload = bytearray(record_bytes("u", 0, 0, 1, size.record_bytes))
    payload[-1] ^= 1
    client.send(Put(writer=2, step=0, block=0), bytes(payload))
    reply, _ = await client.ask(Commit(writer=2))  # in order, though the record is verified in a thread
    assert reply["error"] == "checksum"
    side.close()
    store.close()


async def test_a_commit_without_all_records_is_refused(side: Side) -> None:
    client = side.client()
    await client.ask(create("t"))
    await client.ask(Put(writer=1, step=0, block=0), record_bytes("t", 0, 0, 0, RECORD_BYTES))
    assert (await client.ask(Commit(writer=1)))[0]["error"] == "incomplete"


async def test_a_commit_may_be_of_fewer_steps_and_have_a_note(side: Side) -> None:
    client = side.client()
    await client.ask(create("t"))
    for block in range(SIZE.blocks):
        await client.ask(Put(writer=1, step=0, block=block), record_bytes("t", 0, block, 7, RECORD_BYTES))
    assert "error" not in (await client.ask(Commit(writer=1, steps=1, note=b"\0\xff")))[0]
    leased, _ = await client.ask(Lease(template="t"))
    assert (leased["steps"], leased["blocks"], leased["note"]) == (1, SIZE.blocks, b"\0\xff")
    _, memory = await client.ask(Fetch(lease=1, step=0))
    assert values("t", SIZE, 0, memory) == [7, 7]
    assert (await client.ask(Fetch(lease=1, step=1)))[0]["lost"] is True


@pytest.mark.parametrize("steps", [0, 1, 3])
async def test_a_commit_of_other_steps_than_were_put_is_refused(side: Side, store: TieredStore, steps: int) -> None:
    client = side.client()
    await client.ask(create("t", TemplateSize(4, 1, RECORD_BYTES)))
    for step in range(2):
        await client.ask(Put(writer=1, step=step, block=0), record_bytes("t", step, 0, 7, RECORD_BYTES))
    assert (await client.ask(Commit(writer=1, steps=steps)))[0]["error"] == ("incomplete" if steps == 3 else "cache")
    assert store.host.free_bytes == store.host.total_bytes


async def test_a_note_that_is_too_long_is_refused(side: Side, store: TieredStore) -> None:
    client = side.client()
    await client.ask(create("t", ONE))
    await client.ask(Put(writer=1, step=0, block=0), record_bytes("t", 0, 0, 7, RECORD_BYTES))
    number = client.send(Commit(writer=1, note=bytes(MAX_NOTE_BYTES + 1)))
    assert (await client.reply(0))[0]["error"] == "protocol"  # no header holds as much
    assert number not in client.replies
    await client.connection.wait_closed()
    assert store.host.free_bytes == store.host.total_bytes


@pytest.mark.parametrize(("template", "steps"), [("a b", 1), ("", 1), ("a/b/c", 1), ("t", 0)])
async def test_a_template_that_cannot_be_is_not_begun(side: Side, template: str, steps: int) -> None:
    client = side.client()
    assert (await client.ask(create(template, TemplateSize(steps, 1, 1))))[0]["error"] == "cache"


async def test_a_durable_commit_is_answered_when_it_is_on_disk() -> None:
    disk = FakeTier()
    disk.gate.clear()
    store = tiered_store(disk)
    side = Side(store)
    client = side.client()
    await client.ask(create("t", ONE))
    await client.ask(Put(writer=1, step=0, block=0), record_bytes("t", 0, 0, 0, RECORD_BYTES))
    number = client.send(Commit(writer=1, durable=True))
    assert (await client.ask(Stat(template="t")))[0]["templates"] == 1  # visible at once
    assert number not in client.replies
    disk.gate.set()
    await client.reply(number)
    assert "t" in disk.committed
    await client.ask(Flush())
    side.close()
    store.close()


async def test_without_room_a_put_waits_then_goes_on() -> None:
    disk = FakeTier()
    store = tiered_store(disk, pages=1)
    side = Side(store)
    fill_template(store, "a", ONE)
    store.flush()
    reader, writer = side.client(maps_arena=True), side.client()
    await reader.ask(Lease(template="a"))
    await reader.ask(Fetch(lease=1, step=0))  # has the only page
    await writer.ask(create("b", ONE))
    number = writer.send(Put(writer=1, step=0, block=0), record_bytes("b", 0, 0, 3, RECORD_BYTES))
    assert not writer.transport.is_fed
    assert side.metric("instgenie_cache_unanswered_put_bytes") == PAGE_BYTES
    await reader.ask(Release(lease=1))
    assert "error" not in (await writer.reply(number))[0]
    assert "error" not in (await writer.ask(Commit(writer=1)))[0]
    assert side.metric("instgenie_cache_unanswered_put_bytes") == 0
    side.close()
    store.close()


async def test_a_put_that_gets_no_room_in_time_is_refused_and_the_connection_goes_on() -> None:
    store = tiered_store(FakeTier(), pages=1)
    side = Side(store, room_seconds=0.02)
    fill_template(store, "a", ONE)
    store.flush()
    reader, writer = side.client(maps_arena=True), side.client()
    await reader.ask(Lease(template="a"))
    await reader.ask(Fetch(lease=1, step=0))
    await writer.ask(create("b", TemplateSize(2, 1, RECORD_BYTES)))
    refused, _ = await writer.ask(Put(writer=1, step=0, block=0), record_bytes("b", 0, 0, 3, RECORD_BYTES))
    assert refused["error"] == "full"
    assert (await writer.ask(Put(writer=1, step=1, block=0), b"x"))[0]["message"] == refused["message"]
    assert "error" not in (await writer.ask(Stat()))[0]
    side.close()
    store.close()


async def test_a_client_that_goes_while_its_put_waits_leaves_nothing() -> None:
    store = tiered_store(FakeTier(), pages=1)
    side = Side(store)
    fill_template(store, "a", ONE)
    store.flush()
    reader, writer = side.client(maps_arena=True), side.client()
    await reader.ask(Lease(template="a"))
    await reader.ask(Fetch(lease=1, step=0))
    await writer.ask(create("b", ONE))
    writer.send(Put(writer=1, step=0, block=0), record_bytes("b", 0, 0, 3, RECORD_BYTES))
    await writer.lose()
    assert side.metric("instgenie_cache_unanswered_put_bytes") == 0
    assert "error" not in (await reader.ask(create("b", ONE)))[0]  # which takes one writer at a time
    side.close()
    store.close()


async def test_what_a_client_holds_is_free_once_it_goes(side: Side, store: TieredStore) -> None:
    fill_template(store, "t", SIZE)
    client = side.client(maps_arena=True)
    await client.ask(Lease(template="t"))
    await client.ask(Fetch(lease=1, step=0))
    await client.ask(Pin(template="t"))
    await client.ask(create("new", ONE))
    await client.ask(Put(writer=1, step=0, block=0), record_bytes("new", 0, 0, 0, RECORD_BYTES))
    client.feed(b"IGC1")  # half a frame
    await client.lose()
    assert store.host.evictable_bytes == store.host.used_bytes == SIZE.stored_bytes


async def test_half_a_record_is_free_once_its_client_goes(side: Side, store: TieredStore) -> None:
    client = side.client()
    await client.ask(create("t", ONE))
    client.feed(encode_frame_head({"id": 9, "op": "put", "writer": 1, "step": 0, "block": 0}, PAGE_BYTES) + b"x" * 1000)
    assert store.host.used_bytes == PAGE_BYTES
    await client.lose()
    assert store.host.used_bytes == 0
    assert side.metric("instgenie_cache_unanswered_put_bytes") == 0


async def test_a_template_stays_pinned_while_anyone_pins_it(side: Side, store: TieredStore) -> None:
    fill_template(store, "t", ONE)
    first, second = side.client(), side.client()
    for client in (first, second, second):
        assert (await client.ask(Pin(template="t")))[0]["held"] is True
    await second.ask(Pin(template="t", pinned=False))
    assert store.host.evictable_bytes == 0
    await first.lose()
    assert store.host.evictable_bytes == PAGE_BYTES
    await second.ask(Pin(template="t", pinned=False))


async def test_a_step_stays_in_memory_while_it_is_being_sent(side: Side, store: TieredStore) -> None:
    fill_template(store, "t", SIZE, first=9)
    client = side.client()
    await client.ask(Lease(template="t"))
    client.transport.read(0)  # no more is read
    number = client.send(Fetch(lease=1, step=0))
    await client.settle(lambda: bool(client.transport.unread))
    client.send(Release(lease=1))
    client.send(Delete(template="t"))
    await client.settle(lambda: side.metric('instgenie_cache_requests_total{op="delete",outcome="ok"}') == 1)
    assert store.host.used_bytes == SIZE.step_bytes
    client.transport.read()
    _, memory = await client.reply(number)
    assert values("t", SIZE, 0, memory) == [9, 10]
    await client.settle(lambda: store.host.used_bytes == 0)


async def test_a_client_that_reads_nothing_is_cut_off() -> None:
    store = tiered_store()
    side = Side(store, unread_seconds=0.05)
    fill_template(store, "t", SIZE)
    client = side.client()
    await client.ask(Lease(template="t"))
    client.transport.read(0)
    client.send(Fetch(lease=1, step=0))
    await client.connection.wait_closed()
    assert client.transport.was_aborted
    assert store.host.evictable_bytes == store.host.used_bytes
    side.close()
    store.close()


async def test_a_client_that_reads_slowly_is_not_cut_off() -> None:
    store = tiered_store()
    side = Side(store, unread_seconds=0.05)
    fill_template(store, "t", SIZE)
    client = side.client()
    await client.ask(Lease(template="t"))
    client.transport.read(0)
    number = client.send(Fetch(lease=1, step=0))
    for _ in range(8):
        await asyncio.sleep(0.025)
        client.transport.read(1000)
    assert not client.transport.was_aborted
    client.transport.read()
    await client.reply(number)
    side.close()
    store.close()


async def test_requests_wait_while_replies_are_not_read() -> None:
    store = tiered_store()
    side = Side(store, unread_replies=3)
    client = side.client()
    client.transport.read(0)
    numbers = [client.send(Stat()) for _ in range(10)]
    assert not client.transport.is_fed
    assert side.metric('instgenie_cache_requests_total{op="stat",outcome="ok"}') == 3
    client.transport.read()
    for number in numbers:
        await client.reply(number)
    side.close()
    store.close()


async def test_limits_are_named() -> None:
    store = tiered_store()
    side = Side(store, writers=1, leases=1, pins=1)
    for name in ("a", "b"):
        fill_template(store, name, ONE)
    client = side.client()
    for message in (create("x", ONE), Lease(template="a"), Pin(template="a"), Pin(template="a")):
        assert "error" not in (await client.ask(message))[0]
    for message, refusal in (
        (create("y", ONE), "1 writers are open on this connection, more are not allowed"),
        (Lease(template="a"), "1 leases are open on this connection, more are not allowed"),
        (Pin(template="b"), "1 templates are pinned by this connection, more are not allowed"),
    ):
        assert (await client.ask(message))[0]["message"] == refusal
    for ending in (Abort(writer=1), Release(lease=1), Pin(template="a", pinned=False)):
        await client.ask(ending)
    for message in (create("y", ONE), Lease(template="a"), Pin(template="b")):
        assert "error" not in (await client.ask(message))[0]
    side.close()
    store.close()


async def test_metrics_are_the_payload_of_their_reply(side: Side) -> None:
    client = side.client()
    await client.ask(Stat())
    _, text = await client.ask(Metrics())
    assert b'instgenie_cache_requests_total{op="stat",outcome="ok"} 1.0' in text


class _FaultyStore:
    """A store whose leases take until they are let, and which fails in ways that it should not."""

    def __init__(self, store: TieredStore) -> None:
        self.arena = store.arena
        self.may_lease = threading.Event()
        self.leases: list[TieredLease] = []
        self._store = store

    def lookup_blocks(self, _: str) -> bool:
        return True

    def lease(self, template: str) -> TieredLease | None:
        assert self.may_lease.wait(10)
        lease = self._store.lease(template)
        if lease is not None:
            self.leases.append(lease)
        return lease

    def stats(self, namespace: str | None = None) -> None:
        raise RuntimeError("a bug")

    def unpin(self, template: str) -> None:
        raise AssertionError("nothing was pinned")


@pytest.fixture
def faulty(store: TieredStore) -> Iterator[Side]:
    side = Side(_FaultyStore(store))  # type: ignore[arg-type]
    yield side
    side.close()


async def test_a_fault_of_ours_is_logged_and_told_and_the_service_goes_on(
    faulty: Side, caplog: pytest.LogCaptureFixture
) -> None:
    client = faulty.client()
    header, _ = await client.ask(Stat())
    assert (header["error"], header["message"]) == ("cache", "the service failed: RuntimeError")
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert (await client.ask(Metrics()))[0].get("error") is None


async def test_a_lease_that_comes_when_its_client_has_gone_is_given_back(faulty: Side, store: TieredStore) -> None:
    fill_template(store, "t", ONE)
    client = faulty.client()
    client.send(Lease(template="t"))
    await client.lose()
    fake = faulty.store
    assert isinstance(fake, _FaultyStore)
    fake.may_lease.set()
    await client.settle(lambda: bool(fake.leases) and not fake.leases[0].is_valid)


async def test_requests_in_progress_are_bounded(store: TieredStore) -> None:
    fake = _FaultyStore(store)
    side = Side(fake, requests=2)  # type: ignore[arg-type]
    client = side.client()
    waiting = [client.send(Lease(template="t")) for _ in range(2)]
    refused, _ = await client.ask(Lease(template="t"))
    assert refused["message"] == "2 requests are in progress on this connection, more are not allowed"
    fake.may_lease.set()
    for number in waiting:
        assert (await client.reply(number))[0]["lease"] is None
    side.close()


@pytest.mark.parametrize("record_bytes", [1, 3000])
async def test_a_tenant_is_sent_no_byte_of_another(side: Side, record_bytes: int) -> None:
    other, client = side.client("b"), side.client("a")
    await write(other, "b/t", TemplateSize(15, 1, RECORD_BYTES), first=0xB0)  # nearly all pages of the arena
    await other.ask(Delete(template="b/t"))
    await write(other, "b/kept", ONE, first=0xB0)
    size = TemplateSize(2, 8, record_bytes)
    await write(client, "a/t", size, first=1)
    assert (await client.ask(Lease(template="b/kept")))[0]["lease"] is None
    await client.ask(Lease(template="a/t"))
    for step in range(2):
        _, memory = await client.ask(Fetch(lease=1, step=step))
        assert values("a/t", size, step, memory) == list(range(1 + 8 * step, 9 + 8 * step))
        assert len(memory) == size.step_bytes
        for block in range(8):
            between = memory[size.offset(block) + size.stored_record_bytes : size.offset(block + 1)]
            assert between == bytes(len(between))
