"""What a service makes of front ends that do not keep to the protocol, or ask for too much."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instgenie.errors import ReplicaError
from instgenie.replica.fields import to_fields
from instgenie.replica.messages import (
    HELLO,
    MAX_PAYLOAD_BYTES,
    PROTOCOL_VERSION,
    Hello,
    decode_error,
    encode_keys,
    encode_order,
)
from instgenie.replica.remote_replica import RemoteReplica
from instgenie.replica.service import ReplicaService
from instgenie.replica.service_limits import ServiceLimits
from instgenie_cache.errors import CacheError, ServiceError
from instgenie_cache.wire.address import Address, connect
from instgenie_cache.wire.frames import PREFIX_BYTES, decode_header, decode_prefix, encode_frame_head
from instgenie_cache.wire.handshake import greet, say_hello
from instgenie_cache.wire.messages import PROTOCOL_VERSION as CACHE_VERSION
from instgenie_cache.wire.messages import Hello as CacheHello
from tests.instgenie.replica.scripted_replica import OUTCOME, WINDOW, ScriptedReplica, a_warm_order, an_order, until

pytestmark = pytest.mark.asyncio

HELLO_FIELDS = to_fields(Hello(version=PROTOCOL_VERSION, client="raw", front_end="raw"))


class RawFrontEnd:
    """Says what it is told to."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        await self.send_bytes(encode_frame_head(header, len(payload)) + payload)

    async def send_bytes(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def receive(self) -> tuple[dict[str, Any], bytes] | None:
        """A frame; None where the connection has ended."""
        prefix = await self._read(PREFIX_BYTES)
        if prefix is None:
            return None
        header_bytes, payload_bytes = decode_prefix(prefix, MAX_PAYLOAD_BYTES)
        header, payload = await self._read(header_bytes), await self._read(payload_bytes)
        assert header is not None
        assert payload is not None
        return decode_header(header), payload

    async def error(self) -> str:
        """The next frame's."""
        frame = await self.receive()
        assert frame is not None
        return str(decode_error(frame[0]))

    async def _read(self, num_bytes: int) -> bytes | None:
        data = b""
        async with asyncio.timeout(10):
            while len(data) < num_bytes:
                more = await asyncio.get_running_loop().sock_recv(self._sock, num_bytes - len(data))
                if not more:
                    return None
                data += more
        return data


@asynccontextmanager
async def raw(service: ReplicaService) -> AsyncIterator[RawFrontEnd]:
    sock = await connect(service.addresses[0])
    try:
        await say_hello(sock, HELLO, HELLO_FIELDS)
        yield RawFrontEnd(sock)
    finally:
        sock.close()


@asynccontextmanager
async def serving(address: Address, **limits: Any) -> AsyncIterator[tuple[ReplicaService, ScriptedReplica]]:
    scripted = ScriptedReplica()
    service = ReplicaService(scripted, [address], limits=ServiceLimits(**limits))
    await service.start()
    try:
        yield service, scripted
    finally:
        await service.close()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"version": PROTOCOL_VERSION - 1},
            f"the client speaks version {PROTOCOL_VERSION - 1} of the protocol, the service {PROTOCOL_VERSION}",
        ),
        ({"client": "x" * 65}, "at most 64 characters"),
        ({"front_end": 5}, r"Hello\.front_end"),
        ({"more": 1}, "has no field 'more'"),
    ],
)
async def test_hellos_that_are_refused(service: ReplicaService, fields: dict[str, Any], message: str) -> None:
    sock = await connect(service.addresses[0])
    with sock, pytest.raises(ServiceError, match=message):
        await say_hello(sock, HELLO, HELLO_FIELDS | fields)


async def test_a_caches_client_is_told_that_this_is_no_cache(service: ReplicaService) -> None:
    sock = await connect(service.addresses[0])
    with sock, pytest.raises(ServiceError, match="a connection begins with replica"):
        await greet(sock, CacheHello(version=CACHE_VERSION, client="lost"))


@pytest.mark.parametrize(
    ("header", "payload", "message"),
    [
        ({"op": "dance"}, b"", "unknown operation 'dance'"),
        ({}, b"", "unknown operation None"),
        ({"op": ["edit"]}, b"", "unknown operation"),
        ({"op": "stats"}, b"x", "'stats' has no payload, 1 bytes came"),
        ({"op": "cancel"}, b"", "an order's id is a text, not None"),
        ({"op": "acknowledge", "order": 1}, b"", "an order's id is a text, not 1"),
        ({"op": "pin"}, b"\xc1", "an unreadable payload"),
        ({"op": "held"}, b"", "an unreadable payload"),
        ({"op": "edit"}, b"", "5 parts, not None"),
        ({"op": "warm", "order": {}, "parts": [0, 0, 0]}, b"", "Pixels is a map"),
    ],
)
async def test_requests_that_are_malformed_are_answered(
    service: ReplicaService, header: dict[str, Any], payload: bytes, message: str
) -> None:
    async with raw(service) as front_end:
        await front_end.send(header | {"id": 7}, payload)
        assert message in await front_end.error()
        await front_end.send({"op": "ping", "id": 8})  # the connection goes on
        assert await front_end.receive() == ({"id": 8}, b"")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        encode_frame_head({"op": "stats"}, 0),
        encode_frame_head({"op": "stats", "id": 0}, 0),
        encode_frame_head({"op": "edit", "id": 1}, MAX_PAYLOAD_BYTES + 1),
    ],
)
async def test_what_is_no_request_ends_the_connection(service: ReplicaService, data: bytes) -> None:
    async with raw(service) as front_end:
        await front_end.send_bytes(data)
        frame = await front_end.receive()
        assert frame is not None
        assert (frame[0]["id"], frame[0]["error"]) == (0, "protocol")
        assert await front_end.receive() is None
    await until(lambda: not service.connections)


VALUES = st.none() | st.booleans() | st.integers(-1, 2**40) | st.text(max_size=5) | st.lists(st.integers(), max_size=4)
NAMES = st.sampled_from(["op", "id", "order", "parts", "x"])
OPS = st.sampled_from(["edit", "warm", "cancel", "acknowledge", "ping", "leave", "stats", "pin", "held", "x"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.dictionaries(NAMES, VALUES), OPS, st.binary(max_size=30)), max_size=6))
async def test_nothing_that_is_sent_harms_others(
    service: ReplicaService, requests: list[tuple[dict[str, Any], str, bytes]]
) -> None:
    remote = await RemoteReplica.connect(service.addresses[0])
    async with raw(service) as front_end:
        for header, op, payload in requests:
            try:
                await front_end.send({"op": op, "id": 5} | header, payload)
            except (OSError, CacheError, OverflowError):
                break
        assert (await remote.stats()).running == 2
    await remote.close()


async def test_order_that_is_too_large_beside_others_is_refused(address: Address) -> None:
    async with serving(address, order_bytes=300) as (service, scripted):
        remote = await RemoteReplica.connect(service.addresses[0])
        first = asyncio.create_task(remote.edit(an_order("1"), lambda _: None))
        begun = await scripted.begun("1")
        second = asyncio.create_task(remote.edit(an_order("2"), lambda _: None))
        also_begun = await scripted.begun("2")
        with pytest.raises(ReplicaError, match="the replica takes 300 at a time"):
            await remote.edit(an_order("3"), lambda _: None)
        begun.end.set_result(OUTCOME)
        await first
        also_begun.end.set_result(OUTCOME)
        await second
        third = asyncio.create_task(remote.edit(an_order("3"), lambda _: None))  # now there is room
        (await scripted.begun("3")).end.set_result(OUTCOME)
        assert await third == OUTCOME
        await remote.close()


async def test_order_that_is_cut_short_takes_no_room(address: Address) -> None:
    async with serving(address, order_bytes=200) as (service, scripted):
        body = encode_order(an_order("1"))
        for _ in range(3):
            async with raw(service) as front_end:
                await front_end.send_bytes(encode_frame_head({"id": 2, **body.fields}, body.payload_bytes) + b"half")
                await until(lambda: service.connections == 1)
            await until(lambda: not service.connections)
        remote = await RemoteReplica.connect(service.addresses[0])
        edit = asyncio.create_task(remote.edit(an_order(), lambda _: None))
        (await scripted.begun("edit")).end.set_result(OUTCOME)
        assert await edit == OUTCOME
        await remote.close()


async def test_bounds_of_one_connection_and_of_all(address: Address) -> None:
    async with serving(address, orders=1, connections=2, pins=2) as (service, scripted):
        remote = await RemoteReplica.connect(service.addresses[0])
        edit = asyncio.create_task(remote.edit(an_order(), lambda _: None))
        begun = await scripted.begun("edit")
        with pytest.raises(ReplicaError, match="1 orders of this connection"):
            await remote.edit(an_order("another"), lambda _: None)
        with pytest.raises(ReplicaError, match="0 templates are pinned, 2 may be"):
            await remote.pin(["a", "b", "c"])
        begun.end.set_result(OUTCOME)
        await edit
        other = await RemoteReplica.connect(service.addresses[0])
        with pytest.raises(ReplicaError, match="2 front ends are connected, more are not allowed"):
            await RemoteReplica.connect(service.addresses[0])
        await other.close()
        await remote.close()


async def test_questions_beyond_the_bound_wait(address: Address) -> None:
    async with serving(address, requests=2) as (service, scripted), raw(service) as front_end:
        for n in range(1, 50):
            await front_end.send({"op": "pin", "id": n}, b"".join(encode_keys([f"{n}"])))
        answered = [await front_end.receive() for _ in range(1, 50)]
        assert [frame[0]["id"] for frame in answered if frame is not None] == list(range(1, 50))
        assert len(scripted.asked) == 49


async def test_front_end_that_does_not_read_is_told_that_the_replica_drains(address: Address) -> None:
    """Reports may be left out, this may not: it would go on ordering, and be refused."""
    async with serving(address) as (service, scripted), raw(service) as front_end:
        body = encode_order(an_order())
        await front_end.send({"id": 2, **body.fields}, b"".join(body.payload))
        begun = await scripted.begun("edit")
        for step in range(1, 4):
            begun.step(step, bytes(6 << 20))
        draining = asyncio.create_task(service.drain())
        notices = 0
        while not notices:
            frame = await front_end.receive()
            assert frame is not None
            notices += frame[0].get("notice") == "draining"
        begun.end.set_result(OUTCOME)
        await draining


async def test_windows_are_told_however_much_waits_to_be_read(address: Address) -> None:
    """Steps may be left out, these may not: templates would never be warm."""
    async with serving(address) as (service, scripted), raw(service) as front_end:
        for number, body in enumerate((encode_order(an_order()), encode_order(a_warm_order())), 2):
            await front_end.send({"id": number, **body.fields}, b"".join(body.payload))
        edit, warm = await scripted.begun("edit"), await scripted.begun("warm")
        for step in range(1, 4):
            edit.step(step, bytes(6 << 20))
        for window in range(1, 4):
            warm.report(replace(WINDOW, number=window, windows=3))
        warm.end.set_result(None)
        steps, windows = [], []
        while True:
            frame = await front_end.receive()
            assert frame is not None
            match frame[0]:
                case {"event": "step", "step": step}:
                    steps.append(step)
                case {"event": "window", "number": number}:
                    windows.append(number)
                case {"end": "warm"}:
                    break
        assert (steps, windows) == ([1, 2], [1, 2, 3])
        edit.end.set_result(OUTCOME)


async def test_who_reads_no_windows_is_cut_off(address: Address) -> None:
    async with serving(address, unread_seconds=0.1) as (service, scripted), raw(service) as front_end:
        body = encode_order(a_warm_order(max_windows=10_000))
        await front_end.send({"id": 2, **body.fields}, b"".join(body.payload))
        warm = await scripted.begun("warm")
        for window in range(1, 10_001):
            warm.report(replace(WINDOW, number=window, windows=10_000, key="k" * 200))
        await until(lambda: not service.connections)


async def test_who_does_not_read_answers_is_not_read_from(address: Address) -> None:
    questions = b"".join(encode_frame_head({"op": "stats", "id": n}, 0) for n in range(1, 20_000))
    async with serving(address) as (service, _), raw(service) as front_end:
        sending = asyncio.create_task(front_end.send_bytes(questions))
        (session,) = service._sessions
        await until(lambda: session.connection.unsent_bytes > 1 << 20)
        assert not (await asyncio.wait({sending}, timeout=0.5))[0]
        assert session.connection.unsent_bytes < 2 << 20
        sending.cancel()


async def test_address_that_is_taken(service: ReplicaService, scripted: ScriptedReplica) -> None:
    second = ReplicaService(scripted, service.addresses)
    with pytest.raises(ServiceError, match="a service listens at"):
        await second.start()
    await second.close()
