"""The client against a service that answers late, out of order, wrongly or not at all."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from instgenie_cache.client.cache_client import NO_LEASE, CacheClient
from instgenie_cache.errors import CacheError, ProtocolError, ServiceError, StoreFullError
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.frames import Frame
from instgenie_cache.wire.messages import (
    Abort,
    Create,
    CreateReply,
    Delete,
    Empty,
    Fetch,
    FetchReply,
    Lease,
    LeaseReply,
    Metrics,
    Pin,
    PinReply,
    Prefetch,
    Put,
    Release,
)
from tests.cache.fake_service import CREDIT_BYTES, FakePeer, fake_service

LEASED = LeaseReply(lease=3, tier="host", steps=1, blocks=1, record_bytes=10)
PUT = Put(writer=1, step=0, block=0)


@asynccontextmanager
async def connected(tmp_path: Path, **service: Any) -> AsyncIterator[tuple[CacheClient, FakePeer]]:
    async with asyncio.timeout(20), fake_service(tmp_path / "s", **service) as listening:
        client = await CacheClient.connect(listening.address, client="test", arena="read")
        try:
            yield client, await listening.peer()
        finally:
            await client.close()


def begin(coroutine: Awaitable[Any]) -> asyncio.Future[Any]:
    return asyncio.ensure_future(coroutine)


async def test_answers_come_in_any_order(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        asked = [begin(client.request(Pin(template=name))) for name in "abc"]
        numbers = {(found := await peer.expect(Pin))[1].template: found[0] for _ in asked}
        for name in "cab":
            peer.reply(numbers[name], PinReply(held=name == "b"))
        assert [(await answer)[0].held for answer in asked] == [False, True, False]


async def test_error_reply_raises_its_kind(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        asked = begin(client.request(Create(template="a", steps=1, blocks=1, record_bytes=1)))
        peer.fail((await peer.next())[0], StoreFullError("no room"))
        with pytest.raises(StoreFullError, match="no room"):
            await asked
        assert not client.is_closed


async def test_payloads_go_both_ways(tmp_path: Path) -> None:
    memory = memoryview(bytearray(5000))
    async with connected(tmp_path) as (client, peer):
        put = begin(client.request(PUT, [b"head", memoryview(b"body")]))
        number, _, payload = await peer.next()
        assert payload == b"headbody"
        peer.reply(number)
        assert await put == (Empty(), ())
        fetch = begin(client.request(Fetch(lease=1, step=0), into=lambda num_bytes: [memory[:num_bytes]]))
        peer.reply((await peer.next())[0], FetchReply(lost=False), [b"x" * 4000, b"y" * 1000])
        reply, views = await fetch
        assert reply == FetchReply(lost=False)
        assert views == [memory]
        assert bytes(memory) == b"x" * 4000 + b"y" * 1000
        metrics = begin(client.request(Metrics()))
        peer.reply((await peer.next())[0], Empty(), [b"text"])
        assert b"".join((await metrics)[1]) == b"text"


async def test_answer_that_comes_late_is_thrown_away(tmp_path: Path) -> None:
    into_asked: list[int] = []
    async with connected(tmp_path) as (client, peer):
        with pytest.raises(ServiceError, match=r"no answer to fetch within 0\.01 s"):
            await client.request(Fetch(lease=1, step=0), deadline_seconds=0.01, into=into_asked.append)  # type: ignore[arg-type]
        late, _ = await peer.expect(Fetch)
        peer.reply(late, FetchReply(lost=False), [os.urandom(300_000)])
        asked = begin(client.request(Pin(template="a")))
        peer.reply((await peer.expect(Pin))[0], PinReply(held=True))
        assert (await asked)[0].held
        assert into_asked == []


async def test_what_is_granted_too_late_is_given_back(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        for request, reply in (
            (Lease(template="a"), LEASED),
            (Create(template="a", steps=1, blocks=1, record_bytes=1), CreateReply(writer=5)),
        ):
            with pytest.raises(ServiceError):
                await client.request(request, deadline_seconds=0.01)
            peer.reply((await peer.next())[0], reply)
        assert (await peer.expect(Release))[1] == Release(lease=3)
        assert (await peer.expect(Abort))[1] == Abort(writer=5)


async def test_caller_that_is_cancelled_gives_back_too(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        asked = begin(client.request(Lease(template="a")))
        number, _ = await peer.expect(Lease)
        asked.cancel()
        await asyncio.wait([asked])
        peer.reply(number, LEASED)
        assert (await peer.expect(Release))[1] == Release(lease=3)


async def test_answer_and_cancellation_in_one_turn_of_the_loop(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        asked = begin(client.request(Lease(template="a")))
        number, _ = await peer.expect(Lease)
        client.frame(Frame({"id": number, **LEASED.fields()}, 0, ()))
        asked.cancel()
        await asyncio.wait([asked])
        assert asked.cancelled()
        assert (await peer.expect(Release))[1] == Release(lease=3)


async def test_mapped_step_and_pin_that_come_late_are_given_back(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        for request, reply, back in (
            (Fetch(lease=3, step=2), FetchReply(lost=False, pieces=[[0, 1]]), Release(lease=3, step=2)),
            (Pin(template="a"), PinReply(held=True), Pin(template="a", pinned=False)),
        ):
            with pytest.raises(ServiceError):
                await client.request(request, deadline_seconds=0.01)
            peer.reply((await peer.next())[0], reply)
            assert (await peer.next())[1] == back


async def test_requests_that_cannot_be_sent_fail_alone_and_at_once(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        for request in (
            Lease(template="\ud800"),
            Put(writer=2**64, step=0, block=0),
            Delete(template=object()),  # type: ignore[arg-type]
        ):
            with pytest.raises(CacheError, match=f"{request.op} cannot be sent"):
                await client.request(request, [bytes(CREDIT_BYTES)])
        with pytest.raises(CacheError, match="put cannot be sent"):
            await client.request(PUT, [memoryview(bytes(100))[::2]])  # with gaps
        assert client.credits.used_bytes == 0
        assert not client.is_closed
        assert not peer.has_requests


async def test_hello_that_cannot_be_sent(tmp_path: Path) -> None:
    async with fake_service(tmp_path / "s") as listening:
        with pytest.raises(CacheError, match="a hello that cannot be sent"):
            await CacheClient.connect(listening.address, client="\ud800")


async def test_silence_ends_with_whatever_is_heard(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        asked = begin(client.request(Pin(template="a")))
        number, _ = await peer.expect(Pin)
        client.doubt(60)
        assert client.is_silent
        client.doubt(0)  # the one before counts
        assert (await peer.expect(Release))[1] == Release(lease=NO_LEASE)
        peer.reply(number, PinReply(held=True))
        await asked
        assert not client.is_silent
        assert not client.is_closed
        assert not peer.has_requests


async def test_service_without_a_sign_of_life_is_given_up(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        asked = begin(client.request(Pin(template="a")))
        await peer.expect(Pin)
        client.doubt(0.01)
        with pytest.raises(ServiceError, match=r"no sign of life for 0\.01 s"):
            await asked
        assert client.is_closed


async def test_puts_wait_for_credit_in_order(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        puts = [begin(client.request(Put(writer=1, step=0, block=block), [bytes(600)])) for block in range(3)]
        first, request = await peer.expect(Put)
        assert request.block == 0
        # Requests without payload do not wait behind them.
        pin = begin(client.request(Pin(template="a")))
        peer.reply((await peer.expect(Pin))[0], PinReply(held=True))
        await pin
        assert not peer.has_requests
        for block in (1, 2):
            peer.reply(first)
            first, request = await peer.expect(Put)
            assert request.block == block
        peer.fail(first, CacheError("refused"))
        with pytest.raises(CacheError, match="refused"):
            await puts[2]
        assert client.credits.used_bytes == 0


async def test_deadline_of_a_put_in_flight_leaves_the_stream_whole(tmp_path: Path) -> None:
    payload = os.urandom(20 << 20)  # more than socket buffers hold
    async with connected(tmp_path) as (client, peer):
        peer.connection.pause()
        with pytest.raises(ServiceError, match="no answer to put"):
            await client.request(PUT, [payload], deadline_seconds=0.5)
        assert client.credits.used_bytes == len(payload)  # it is on its way still
        waiting = begin(client.request(PUT, [b"after it"]))
        peer.connection.resume()
        number, _, received = await peer.next()
        assert received == payload
        peer.reply(number)
        number, _, received = await peer.next()
        assert received == b"after it"
        peer.reply(number)
        await waiting
        assert client.credits.used_bytes == 0


async def test_deadline_while_waiting_for_credit_sends_nothing(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        first = begin(client.request(PUT, [bytes(CREDIT_BYTES)]))
        number, _ = await peer.expect(Put)
        with pytest.raises(ServiceError):
            await client.request(PUT, [b"x"], deadline_seconds=0.01)
        peer.reply(number)
        await first
        begin(client.request(Pin(template="a"))).add_done_callback(lambda future: future.exception())
        await peer.expect(Pin)
        assert client.credits.used_bytes == 0


async def test_end_of_the_connection_ends_all_that_is_pending(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        asked = [begin(client.request(Pin(template="a"))), begin(client.request(PUT, [bytes(CREDIT_BYTES)]))]
        asked.append(begin(client.request(PUT, [b"waits for credit"])))
        await peer.expect(Pin)
        peer.connection.abort()
        for answer in asked:
            with pytest.raises(ServiceError, match="the connection to the cache service"):
                await answer
        assert client.is_closed
        with pytest.raises(ServiceError, match="the connection to the cache service ended"):
            await client.request(Pin(template="a"))
        with pytest.raises(ServiceError):
            await client.request(PUT, [b"x"])


async def test_close_ends_what_is_pending(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        asked = begin(client.request(Pin(template="a")))
        await peer.expect(Pin)
        await client.close()
        with pytest.raises(ServiceError, match="was closed"):
            await asked
        await client.close()


@pytest.mark.parametrize(
    ("header", "payload", "message"),
    [
        ({"id": 99, "held": True}, b"", "an answer to 99, which was not asked"),
        ({"id": "2", "held": True}, b"", "an answer to '2'"),
        ({"held": True}, b"", "an answer to None"),
        ({"id": 2, "held": "yes"}, b"", "PinReply.held is not to be 'yes'"),
        ({"id": 2}, b"", "PinReply lacks a field"),
        ({"id": 0, "error": "protocol", "message": "not like that"}, b"", "the service ends .*: not like that"),
        ({"id": 2, "held": True}, bytes((16 << 20) + 1), "16777216 are allowed here"),
    ],
)
async def test_service_that_breaks_the_protocol(
    tmp_path: Path, header: dict[str, Any], payload: bytes, message: str
) -> None:
    async with connected(tmp_path) as (client, peer):
        asked = begin(client.request(Pin(template="a")))
        assert (await peer.expect(Pin))[0] == 2
        peer.connection.send(header, [payload])
        with pytest.raises(ProtocolError, match=message):
            await asked
        assert client.is_closed


async def test_memory_that_does_not_fit_the_payload_ends_the_connection(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        asked = begin(client.request(Fetch(lease=1, step=0), into=lambda _: [memoryview(bytearray(9))]))
        peer.reply((await peer.expect(Fetch))[0], FetchReply(lost=False), [bytes(10)])
        with pytest.raises(ProtocolError, match="10 bytes came where 9 were expected"):
            await asked


async def test_request_whose_header_is_too_long_fails_alone(tmp_path: Path) -> None:
    async with connected(tmp_path) as (client, peer):
        with pytest.raises(ProtocolError, match="65536 are allowed"):
            await client.request(Prefetch(template="a" * 70_000))
        asked = begin(client.request(Delete(template="a")))
        peer.reply((await peer.expect(Delete))[0])
        assert await asked == (Empty(), ())


async def test_arena_is_mapped_until_the_connection_ends(tmp_path: Path) -> None:
    fd = os.memfd_create("arena")
    os.truncate(fd, 8192)
    os.pwrite(fd, b"shared", 4096)
    async with connected(tmp_path, arena_bytes=8192, fd=fd) as (client, _):
        assert client.arena is not None
        assert client.arena.num_bytes == 8192
    os.close(fd)
    with pytest.raises(CacheError, match="closed"):
        client.arena.fd(writable=False)


async def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="no cache service at"):
        await CacheClient.connect(Address(path=str(tmp_path / "none")), client="test")


async def test_service_that_does_not_greet(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(ServiceError, match=r"took longer than 0\.05 s"):
            await CacheClient.connect(Address(path=str(tmp_path / "s")), client="test", timeout_seconds=0.05)
