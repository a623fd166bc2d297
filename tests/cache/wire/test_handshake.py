"""The handshake over a socket pair: both sides right, either side wrong, and strangers."""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections.abc import Awaitable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from instgenie_cache.errors import CacheError, ProtocolError, ServiceError, StoreFullError
from instgenie_cache.wire.frames import encode_frame_head
from instgenie_cache.wire.handshake import (
    MAX_FRAME_BYTES,
    Greeting,
    HelloRequest,
    SharedSecret,
    accept_hello,
    greet,
    hear_hello,
    receive_hello,
    refuse_hello,
    say_hello,
    welcome,
)
from instgenie_cache.wire.messages import PROTOCOL_VERSION, Hello, HelloReply

HELLO = Hello(version=PROTOCOL_VERSION, client="test")
REPLY = HelloReply(service="one", arena_bytes=None, credit_bytes=1000, payload_bytes=2000)
SECRET = SharedSecret("tests", b"sixteen bytes or")
OF_TENANT = SharedSecret("tenant", b"another sixteen b", namespace="acme")
SECRETS = {secret.name: secret for secret in (SECRET, OF_TENANT)}

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        yield near, far


async def serve(
    sock: socket.socket, secrets: dict[str, SharedSecret] | None, reply: HelloReply = REPLY, fd: int | None = None
) -> HelloRequest:
    request = await receive_hello(sock, secrets)
    await accept_hello(sock, request.request_id, reply, fd)
    return request


async def meet(
    pair: Pair, hello: Hello, secret: SharedSecret | None, secrets: dict[str, SharedSecret] | None
) -> tuple[Greeting | CacheError, HelloRequest | CacheError]:
    """What either side makes of it."""
    async with asyncio.timeout(10):
        client, service = await asyncio.gather(
            _outcome(greet(pair[0], hello, secret)), _outcome(serve(pair[1], secrets))
        )
    return client, service


async def _outcome(side: Awaitable[Any]) -> Any:
    try:
        return await side
    except CacheError as error:
        return error


async def test_hello_without_secrets(pair: Pair) -> None:
    hello = replace(HELLO, namespace="acme", arena="none")
    assert await meet(pair, hello, None, None) == (Greeting(REPLY, None), HelloRequest(1, hello, None))


@pytest.mark.parametrize("secret", [SECRET, OF_TENANT])
async def test_both_sides_prove_the_secret(pair: Pair, secret: SharedSecret) -> None:
    hello = replace(HELLO, namespace=secret.namespace)
    assert await meet(pair, HELLO, secret, SECRETS) == (Greeting(REPLY, None), HelloRequest(1, hello, secret.name))


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        (None, "the service asks for a shared secret"),
        (SharedSecret("tests", b"not the same secret"), "the shared secret is wrong"),
        (SharedSecret("unknown", SECRET.secret), "the shared secret is wrong"),
        (SharedSecret("tenant", SECRET.secret), "the shared secret is wrong"),
    ],
)
async def test_client_without_the_right_secret_is_refused(
    pair: Pair, secret: SharedSecret | None, message: str
) -> None:
    client, service = await meet(pair, HELLO, secret, SECRETS)
    assert isinstance(client, ServiceError)
    assert isinstance(service, ServiceError)
    assert str(client) == str(service) == message


async def test_service_that_asks_for_no_secret_is_not_the_one_meant(pair: Pair) -> None:
    client, _ = await meet(pair, HELLO, SECRET, None)
    assert isinstance(client, ServiceError)
    assert "asks for no secret" in str(client)


async def test_service_that_only_repeats_proofs_is_found_out(pair: Pair) -> None:
    async def impostor(sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_recv(sock, 4096)
        await loop.sock_sendall(sock, encode_frame_head({"id": 1, "nonce": bytes(32)}, 0))
        proved = await loop.sock_recv(sock, 4096)  # the client's own proof, sent back
        await loop.sock_sendall(sock, proved)

    async with asyncio.timeout(10):
        client, _ = await asyncio.gather(_outcome(greet(pair[0], HELLO, SECRET)), impostor(pair[1]))
    assert isinstance(client, ServiceError)
    assert "does not have secret 'tests'" in str(client)


async def test_proof_is_of_no_use_for_another_connection(pair: Pair) -> None:
    sent = []

    async def record(sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        sent.append(await loop.sock_recv(sock, 4096))
        await loop.sock_sendall(sock, encode_frame_head({"id": 1, "nonce": bytes(32)}, 0))
        sent.append(await loop.sock_recv(sock, 4096))
        sock.close()

    await asyncio.gather(_outcome(greet(pair[0], HELLO, SECRET)), record(pair[1]))
    thief, service = socket.socketpair()
    with thief, service:
        service.setblocking(False)
        thief.sendall(b"".join(sent))
        with pytest.raises(ServiceError, match="the shared secret is wrong"):
            await receive_hello(service, SECRETS)


@pytest.mark.parametrize(("wish", "is_let_in"), [(None, True), ("acme", True), ("other", False)])
async def test_secret_of_a_namespace_binds_the_client(pair: Pair, wish: str | None, is_let_in: bool) -> None:
    client, service = await meet(pair, replace(HELLO, namespace=wish), OF_TENANT, SECRETS)
    if is_let_in:
        assert isinstance(service, HelloRequest)
        assert service.hello.namespace == "acme"
    else:
        assert "secret 'tenant' is of another namespace than 'other'" in str(client)
        assert isinstance(service, ServiceError)


@pytest.mark.parametrize(
    ("hello", "message"),
    [
        (replace(HELLO, version=7), f"the client speaks version 7 of the protocol, the service {PROTOCOL_VERSION}"),
        (replace(HELLO, namespace="no/namespace"), "'no/namespace' cannot be a namespace"),
        (replace(HELLO, client="x" * 65), "at most 64 characters, this one 65"),
    ],
)
async def test_hello_that_is_refused(pair: Pair, hello: Hello, message: str) -> None:
    client, service = await meet(pair, hello, None, None)
    assert isinstance(client, ProtocolError)
    assert message in str(client)
    assert str(client) == str(service)


async def test_refusal_says_why(pair: Pair) -> None:
    async def refuse() -> None:
        request = await receive_hello(pair[1], None)
        await refuse_hello(pair[1], request.request_id, StoreFullError("too many clients"))

    client, _ = await asyncio.gather(_outcome(greet(pair[0], HELLO)), refuse())
    assert isinstance(client, ServiceError)
    assert str(client) == "too many clients"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "got b'GET '"),
        (encode_frame_head({"op": "hello", "id": 1, "client": "x" * MAX_FRAME_BYTES}, 0), "4080 are allowed"),
        (encode_frame_head({"op": "hello", "id": 1}, 1), "a payload of 1 bytes, 0 are allowed"),
        (encode_frame_head({"op": "lease", "id": 1, "template": "a"}, 0), "begins with hello"),
        (encode_frame_head({"op": "hello", "id": 0, **HELLO.fields()}, 0), "a number above 0"),
        (encode_frame_head({"op": "hello", "id": True, **HELLO.fields()}, 0), "a number above 0"),
        (encode_frame_head({"op": "hello", "id": 1}, 0), "speaks version None"),
        (encode_frame_head({"op": "hello", "id": 1, "version": "1" * 100}, 0), "speaks version '111"),
        (encode_frame_head({"op": "hello", "id": 1, **HELLO.fields(), "more": 1}, 0), "no field 'more'"),
        (encode_frame_head({"op": "hello", "id": 1, **HELLO.fields(), "arena": "all"}, 0), "arena is not to be"),
    ],
)
async def test_stranger_is_told_what_is_wrong(pair: Pair, data: bytes, message: str) -> None:
    pair[0].setblocking(True)
    pair[0].sendall(data)
    with pytest.raises(ProtocolError, match=message):
        await receive_hello(pair[1], None)
    assert b"protocol" in pair[0].recv(4096)


@pytest.mark.parametrize("data", [b"", b"IGC1", encode_frame_head({"op": "hello", "id": 1, **HELLO.fields()}, 0)[:-1]])
async def test_client_that_leaves_early(pair: Pair, data: bytes) -> None:
    pair[0].send(data)
    pair[0].close()
    with pytest.raises(ServiceError, match="the connection ended"):
        await receive_hello(pair[1], None)


async def test_service_that_leaves_early(pair: Pair) -> None:
    pair[1].close()
    with pytest.raises(ServiceError, match="the connection ended"):
        await greet(pair[0], HELLO)


async def test_silence_is_for_the_caller_to_end(pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await receive_hello(pair[1], None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await greet(pair[0], HELLO)


async def test_not_a_byte_of_what_follows_is_read(pair: Pair) -> None:
    greeting, request = await meet(pair, HELLO, SECRET, SECRETS)
    assert isinstance(greeting, Greeting)
    assert isinstance(request, HelloRequest)
    pair[1].send(b"from the service")
    assert pair[0].recv(100) == b"from the service"

    near, far = socket.socketpair()
    with near, far:
        far.setblocking(False)
        near.send(encode_frame_head({"op": "hello", "id": 9, **HELLO.fields()}, 0) + b"the next request")
        assert (await receive_hello(far, None)).request_id == 9
        assert far.recv(100) == b"the next request"


def memory_of(num_bytes: int) -> int:
    fd = os.memfd_create("test")
    os.truncate(fd, num_bytes)
    return fd


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough


async def greet_with(pair: Pair, arena_bytes: int | None, fds: list[int]) -> Greeting:
    """Greet a service that passes those file descriptors."""

    async def answer() -> None:
        await receive_hello(pair[1], None)
        frame = encode_frame_head({"id": 1, **replace(REPLY, arena_bytes=arena_bytes).fields()}, 0)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        pair[1].sendmsg([frame], rights)

    greeting, _ = await asyncio.gather(greet(pair[0], HELLO), answer())
    return greeting


async def test_descriptor_of_the_arena_comes_with_the_reply(pair: Pair) -> None:
    fd = memory_of(8192)
    os.pwrite(fd, b"shared", 0)
    reply = replace(REPLY, arena_bytes=8192)
    greeting, _ = await asyncio.gather(greet(pair[0], HELLO), serve(pair[1], None, reply, fd))
    os.close(fd)
    assert greeting.reply == reply
    assert greeting.arena_fd is not None
    assert os.pread(greeting.arena_fd, 6, 0) == b"shared"
    assert not os.get_inheritable(greeting.arena_fd)
    os.close(greeting.arena_fd)


@pytest.mark.parametrize(
    ("arena_bytes", "sizes", "message"),
    [
        (8192, [4096], "an arena of 8192 bytes was promised, it has 4096"),
        (8192, [], "0 file descriptors for an arena of 8192 bytes"),
        (8192, [8192, 8192], "2 file descriptors"),
        (None, [8192], "1 file descriptors for an arena of None"),
    ],
)
async def test_wrong_descriptors_are_refused_and_closed(
    pair: Pair, arena_bytes: int | None, sizes: list[int], message: str
) -> None:
    fds = [memory_of(size) for size in sizes]
    before = open_descriptors()
    with pytest.raises(ProtocolError, match=message):
        await greet_with(pair, arena_bytes, fds)
    assert open_descriptors() == before
    for fd in fds:
        os.close(fd)


async def test_descriptors_that_a_client_sends_are_not_kept(pair: Pair) -> None:
    fd = memory_of(10)
    before = open_descriptors()
    pair[0].sendmsg(
        [encode_frame_head({"op": "hello", "id": 1, **HELLO.fields()}, 0)],
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd] * 20))],
    )
    await receive_hello(pair[1], None)
    assert open_descriptors() == before
    os.close(fd)


@pytest.mark.parametrize(
    ("name", "secret", "namespace"),
    [("", bytes(16), None), ("x" * 65, bytes(16), None), ("a", bytes(15), None), ("a", bytes(16), "a/b")],
)
def test_secret_that_is_none(name: str, secret: bytes, namespace: str | None) -> None:
    with pytest.raises(ValueError, match="secret"):
        SharedSecret(name, secret, namespace)


def test_secret_is_not_shown() -> None:
    assert "sixteen" not in repr(SECRET)


@pytest.mark.parametrize("secret", [None, SECRET])
async def test_handshake_of_another_protocol(pair: Pair, secret: SharedSecret | None) -> None:
    async def answer() -> tuple[int, str, SharedSecret | None]:
        heard = await hear_hello(
            pair[1], "dance", 3, lambda fields: str(fields["who"]), None if secret is None else SECRETS
        )
        await welcome(pair[1], heard.request_id, {"floor": 2})
        return heard.request_id, heard.hello, heard.secret

    async with asyncio.timeout(10):
        reply, heard = await asyncio.gather(say_hello(pair[0], "dance", {"version": 3, "who": "me"}, secret), answer())
    assert (reply, heard) == ({"floor": 2}, (1, "me", secret))


@pytest.mark.parametrize(
    ("op", "version", "message"),
    [("hello", 3, "a connection begins with dance"), ("dance", 4, "speaks version 4 of the protocol, the service 3")],
)
async def test_hello_of_another_protocol_is_refused(pair: Pair, op: str, version: int, message: str) -> None:
    async with asyncio.timeout(10):
        said, heard = await asyncio.gather(
            _outcome(say_hello(pair[0], op, {"version": version})),
            _outcome(hear_hello(pair[1], "dance", 3, dict, None)),
        )
    assert isinstance(said, ServiceError)
    assert message in str(said)
    assert isinstance(heard, ProtocolError)
