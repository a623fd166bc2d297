"""Frames over a socket pair: in order, in both directions, with pauses, and a close whatever comes."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from instgenie_cache.errors import ProtocolError
from instgenie_cache.wire.connection import FrameConnection
from instgenie_cache.wire.frames import Frame, encode_frame_head

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a coroutine on either kind of loop: their transports are not the same."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


class Recorder:
    """A handler that keeps what comes, payloads too."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[tuple[dict[str, Any], bytes]] = asyncio.Queue()
        self.endings: list[Exception | None] = []
        self.on_frame: Callable[[Frame], None] = lambda _frame: None

    def sink(self, header: dict[str, Any], payload_bytes: int) -> Sequence[memoryview] | None:
        if "refuse" in header:
            raise ProtocolError("no such payload")
        return [memoryview(bytearray(payload_bytes))]

    def frame(self, frame: Frame) -> None:
        self.frames.put_nowait((frame.header, b"".join(frame.views or ())))
        self.on_frame(frame)

    def closed(self, error: Exception | None) -> None:
        self.endings.append(error)


@asynccontextmanager
async def connected(
    max_payload_bytes: int = 2**25, **options: float
) -> AsyncIterator[tuple[Recorder, FrameConnection, socket.socket]]:
    """A connection, and the other end of its socket."""
    near, far = socket.socketpair()
    far.setblocking(False)
    recorder = Recorder()
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_unix_connection(
        lambda: FrameConnection(recorder, max_payload_bytes, **options), sock=near
    )
    try:
        yield recorder, connection, far
    finally:
        far.close()
        connection.abort()
        await connection.wait_closed()
        assert len(recorder.endings) == 1


async def send(far: socket.socket, header: dict[str, Any], payload: bytes = b"") -> None:
    await asyncio.get_running_loop().sock_sendall(far, encode_frame_head(header, len(payload)) + payload)


async def read(far: socket.socket, num_bytes: int) -> bytes:
    received = bytearray()
    while len(received) < num_bytes:
        data = await asyncio.get_running_loop().sock_recv(far, num_bytes - len(received))
        assert data
        received += data
    return bytes(received)


def test_frames_come_whole_and_in_order(run: Run) -> None:
    async def scenario() -> None:
        payloads = [os.urandom(length) for length in (0, 1, 70_000, 3_000_000, 5)]
        async with connected() as (recorder, _, far):
            for n, payload in enumerate(payloads):
                await send(far, {"id": n}, payload)
            assert [await recorder.frames.get() for _ in payloads] == [({"id": n}, p) for n, p in enumerate(payloads)]

    run(scenario())


@pytest.mark.parametrize("lengths", [(), (3,), (0, 10, 0, 20), (5_000_000, 1, 300_000)])
def test_views_are_sent_one_after_the_other(run: Run, lengths: tuple[int, ...]) -> None:
    async def scenario() -> None:
        views = [memoryview(os.urandom(length)) for length in lengths]
        async with connected() as (_, connection, far):
            connection.send({"id": 1}, views)
            connection.send({"id": 2})
            expected = encode_frame_head({"id": 1}, sum(lengths)) + b"".join(views) + encode_frame_head({"id": 2}, 0)
            assert await read(far, len(expected)) == expected
            await connection.drain()
            assert connection.unsent_bytes == 0

    run(scenario())


def test_drain_waits_while_nobody_reads(run: Run) -> None:
    async def scenario() -> None:
        payload = bytes(10_000_000)
        async with connected() as (_, connection, far):
            connection.send({}, [payload])
            draining = asyncio.ensure_future(connection.drain())
            await read(far, 1000)
            assert not draining.done()
            assert connection.unsent_bytes > 1_000_000
            await read(far, len(encode_frame_head({}, len(payload))) + len(payload) - 1000)
            await draining

    run(scenario())


def test_drain_ends_with_the_connection(run: Run) -> None:
    async def scenario() -> None:
        async with connected() as (_, connection, far):
            connection.send({}, [bytes(10_000_000)])
            draining = asyncio.ensure_future(connection.drain())
            await read(far, 1000)
            far.close()
            await draining
            assert connection.is_closed

    run(scenario())


def test_pause_holds_back_frames_that_were_read_already(run: Run) -> None:
    async def scenario() -> None:
        async with connected() as (recorder, connection, far):
            recorder.on_frame = lambda _frame: connection.pause()
            await asyncio.get_running_loop().sock_sendall(
                far, b"".join(encode_frame_head({"id": n}, 0) for n in range(3))
            )
            for n in range(3):
                assert await recorder.frames.get() == ({"id": n}, b"")
                assert recorder.frames.empty()
                connection.resume()
            await send(far, {"id": 3}, b"abc")
            assert await recorder.frames.get() == ({"id": 3}, b"abc")

    run(scenario())


def test_resume_from_within_a_frame(run: Run) -> None:
    async def scenario() -> None:
        async with connected() as (recorder, connection, far):

            def pause_and_resume(_frame: Frame) -> None:
                connection.pause()
                connection.resume()

            recorder.on_frame = pause_and_resume
            for n in range(3):
                await send(far, {"id": n})
            assert [(await recorder.frames.get())[0]["id"] for n in range(3)] == [0, 1, 2]

    run(scenario())


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "got b'GET '"),
        (encode_frame_head({"id": 1}, 101), "a payload of 101 bytes, 100 are allowed"),
        (encode_frame_head({"refuse": 1}, 100), "no such payload"),
    ],
)
def test_breach_of_the_protocol_is_answered_then_the_connection_closed(run: Run, stream: bytes, message: str) -> None:
    async def scenario() -> None:
        async with connected(max_payload_bytes=100) as (recorder, connection, far):
            await send(far, {"id": 7})
            await asyncio.get_running_loop().sock_sendall(far, stream)
            await connection.wait_closed()
            assert recorder.frames.qsize() == 1
            (ending,) = recorder.endings
            assert isinstance(ending, ProtocolError)
            expected = encode_frame_head({"id": 0, "error": "protocol", "message": str(ending)}, 0)
            assert await read(far, len(expected)) == expected
            assert message in str(ending)

    run(scenario())


def test_handler_may_refuse_a_frame(run: Run) -> None:
    async def scenario() -> None:
        def refuse(_frame: Frame) -> None:
            raise ProtocolError("not that one")

        async with connected() as (recorder, connection, far):
            recorder.on_frame = refuse
            await send(far, {"id": 1})
            await send(far, {"id": 2})
            await connection.wait_closed()
            assert [str(ending) for ending in recorder.endings] == ["not that one"]
            assert recorder.frames.qsize() == 1

    run(scenario())


def test_end_within_a_frame(run: Run) -> None:
    async def scenario() -> None:
        async with connected() as (recorder, connection, far):
            await asyncio.get_running_loop().sock_sendall(far, encode_frame_head({"id": 1}, 100) + b"half of it")
            far.close()
            await connection.wait_closed()
            assert recorder.frames.empty()
            assert recorder.endings == [None]
            connection.send({"id": 2}, [b"abc"])  # to nobody
            connection.close()

    run(scenario())


def test_close_sends_what_is_still_to_be_sent(run: Run) -> None:
    async def scenario() -> None:
        payload = os.urandom(3_000_000)
        async with connected() as (_, connection, far):
            connection.send({}, [payload])
            connection.close()
            connection.send({"too": "late"})
            expected = encode_frame_head({}, len(payload)) + payload
            assert await read(far, len(expected)) == expected
            assert await asyncio.get_running_loop().sock_recv(far, 1) == b""

    run(scenario())


def test_its_handler_is_free_with_it(run: Run) -> None:
    async def scenario() -> None:
        near, far = socket.socketpair()
        far.setblocking(False)
        recorder = Recorder()
        gone = weakref.ref(recorder)
        connection = FrameConnection(recorder, 2**25)
        recorder.on_frame = lambda _frame: connection.pause()  # each has the other
        del recorder
        await asyncio.get_running_loop().create_unix_connection(lambda: connection, sock=near)
        head = encode_frame_head({"id": 1}, 10_000_000)  # whose payload does not come whole
        await asyncio.get_running_loop().sock_sendall(far, head + bytes(200_000))
        gc.disable()
        try:
            far.close()
            await connection.wait_closed()
            assert gone() is None
        finally:
            gc.enable()

    run(scenario())


@pytest.mark.parametrize("end", [FrameConnection.close, FrameConnection.abort])
def test_where_it_ends_it_waits_for_the_other_side_to_see_that(
    run: Run, end: Callable[[FrameConnection], None]
) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with connected(linger_seconds=10) as (recorder, connection, far):
            end(connection)
            assert await loop.sock_recv(far, 1) == b""
            await loop.sock_sendall(far, bytes(1000))  # which nobody reads
            await asyncio.sleep(0.01)
            assert connection.is_closed
            assert recorder.endings == []
            far.close()
            async with asyncio.timeout(5):
                await connection.wait_closed()

    run(scenario())


def test_it_does_not_wait_for_long(run: Run) -> None:
    async def scenario() -> None:
        async with connected(linger_seconds=0.02) as (_, connection, far):
            connection.close()
            async with asyncio.timeout(5):
                await connection.wait_closed()
            assert await read(far, 0) == b""

    run(scenario())


def test_it_does_not_wait_for_one_that_has_gone(run: Run) -> None:
    async def scenario() -> None:
        async with connected(linger_seconds=60) as (_, connection, far):
            far.close()
            async with asyncio.timeout(5):
                await connection.wait_closed()

    run(scenario())


def test_silence_within_a_frame_ends_it(run: Run) -> None:
    async def scenario() -> None:
        async with connected(stall_seconds=0.05) as (recorder, connection, far):
            await send(far, {"id": 1}, b"whole")
            await asyncio.sleep(0.15)  # between frames there is no hurry
            assert not connection.is_closed
            await asyncio.get_running_loop().sock_sendall(far, encode_frame_head({"id": 2}, 100) + b"half of it")
            async with asyncio.timeout(5):
                await connection.wait_closed()
            assert [str(ending) for ending in recorder.endings] == ["nothing came for 0.05 s in the middle of a frame"]

    run(scenario())
