"""How a connection begins, on a raw socket: asyncio's and uvloop's transports cannot pass file descriptors.

`say_hello` and `hear_hello` are the handshake of any protocol over these frames, `greet` and `receive_hello` that of
the cache service.

    client                                      service
    hello, its nonce and secret's name     ->
                                           <-   {id, nonce}        where the service asks for a secret
    {op: prove, id, proof}                 ->
                                           <-   {id, proof}
                                           <-   reply or error, with the arena's file descriptor

A proof is an HMAC-SHA256 of who proves, of the hello's header as it was sent and of the service's nonce: each side
shows that it has the secret, which itself is never sent. What comes after the handshake is neither signed nor secret:
a network whose packets others can change needs a tunnel.

Frames of the handshake have at most 4 KiB and no payload. Not a byte of what follows them is read. Callers set
deadlines, with `asyncio.timeout`, and close the socket.
"""

from __future__ import annotations

import array
import asyncio
import hashlib
import hmac
import os
import secrets as random_bytes
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from instgenie_cache.errors import CacheError, ProtocolError, ServiceError
from instgenie_cache.names import is_namespace
from instgenie_cache.wire.error_frames import error_fields, read_error
from instgenie_cache.wire.frames import MAX_HEADER_BYTES, PREFIX_BYTES, decode_header, decode_prefix, encode_frame_head
from instgenie_cache.wire.messages import PROTOCOL_VERSION, Hello, HelloReply

MAX_FRAME_BYTES = 4096
MIN_SECRET_BYTES = 16
_HELLO_ID = 1
_NONCE_BYTES = 32
MAX_NAME_CHARACTERS = 64
_MAX_DESCRIPTORS = 4  # more than one is against the protocol, yet they must be closed

HelloT = TypeVar("HelloT")


@dataclass(frozen=True, slots=True)
class SharedSecret:
    """What a client and the service both know.

    Attributes:
        name: says which one of several it is; no secret itself.
        secret: at least 16 bytes.
        namespace: whoever has the secret sees this namespace alone; None leaves the choice to the client.
    """

    name: str
    secret: bytes = field(repr=False)
    namespace: str | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= MAX_NAME_CHARACTERS:
            raise ValueError(f"a secret's name has 1 to {MAX_NAME_CHARACTERS} characters, not {len(self.name)}")
        if len(self.secret) < MIN_SECRET_BYTES:
            raise ValueError(
                f"secret {self.name!r} has {len(self.secret)} bytes, at least {MIN_SECRET_BYTES} are needed"
            )
        if self.namespace is not None and not is_namespace(self.namespace):
            raise ValueError(f"secret {self.name!r} is of no valid namespace: {self.namespace!r}")


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the service granted. The file descriptor is the caller's to close."""

    reply: HelloReply
    arena_fd: int | None


@dataclass(frozen=True, slots=True)
class HelloRequest:
    """Who wants to connect.

    Attributes:
        hello: its namespace is the one that the client is bound to, be it by its own wish or by its secret.
        secret_name: of the secret that the client proved to have, None where none was asked for.
    """

    request_id: int
    hello: Hello
    secret_name: str | None


@dataclass(frozen=True, slots=True)
class Heard(Generic[HelloT]):
    """A hello of some protocol, and the secret that its sender proved to have; None where none was asked for."""

    request_id: int
    hello: HelloT
    secret: SharedSecret | None


async def say_hello(
    sock: socket.socket,
    op: str,
    fields: Mapping[str, Any],
    secret: SharedSecret | None = None,
    descriptors: list[int] | None = None,
) -> dict[str, Any]:
    """The client's side of any protocol: the fields of the service's reply.

    Args:
        op: which protocol's hello it is.
        fields: what it says, its `version` among it.
        secret: with one, a service that does not prove to have it is refused.
        descriptors: file descriptors that come along with the reply go there, and are the caller's to close.

    Raises:
        ServiceError: the service refused, with its message, or proved no secret, or the connection ended.
        ProtocolError: what it said is no handshake.
    """
    header: dict[str, Any] = {"op": op, "id": _HELLO_ID, **fields}
    if secret is not None:
        header |= {"secret": secret.name, "nonce": random_bytes.token_bytes(_NONCE_BYTES)}
    sent = await _send(sock, header)
    if secret is not None:
        await _prove_to_service(sock, secret, sent)
    # Whom it says hello to it has chosen, and that one may have more to say than a stranger has.
    return _without_id(_refused((await _receive(sock, descriptors, MAX_HEADER_BYTES))[0]))


async def hear_hello(
    sock: socket.socket,
    op: str,
    version: int,
    read: Callable[[dict[str, Any]], HelloT],
    secrets: Mapping[str, SharedSecret] | None,
) -> Heard[HelloT]:
    """The service's side of any protocol, up to the decision. Whom this raises about has been told why, as far as it
    listens.

    Args:
        op, version: of the protocol; no other is let in.
        read: makes the hello of its fields, or raises `CacheError`.
        secrets: by name; the client has to prove one of them. None asks for none, as over a Unix socket.

    Raises:
        ProtocolError: no hello, one of another version, or one that asks for what there is not.
        ServiceError: the secret is not proved, or the connection ended.
    """
    request_id = 0
    try:
        header, sent = await _receive(sock)
        request_id = header["id"] if type(header.get("id")) is int and header["id"] > 0 else 0
        if header.pop("op", None) != op or not request_id:
            raise ProtocolError(f"a connection begins with {op} and a number above 0 as its id")
        if (spoken := header.get("version")) != version:
            raise ProtocolError(f"the client speaks version {repr(spoken)[:20]} of the protocol, the service {version}")
        secret_name, nonce = header.pop("secret", None), header.pop("nonce", None)
        hello = read(_without_id(header))
        if secrets is None:
            return Heard(request_id, hello, None)
        if not isinstance(secret_name, str) or not isinstance(nonce, bytes) or len(nonce) != _NONCE_BYTES:
            raise ServiceError("the service asks for a shared secret")
        return Heard(request_id, hello, await _prove_to_client(sock, secrets, secret_name, request_id, sent))
    except CacheError as error:
        await _try_to_refuse(sock, request_id, error)
        raise


async def welcome(sock: socket.socket, request_id: int, fields: Mapping[str, Any], fd: int | None = None) -> None:
    """Say yes to a hello, and pass a file descriptor along where there is one. It stays the caller's.

    Raises:
        ServiceError: the connection ended.
    """
    await _send(sock, {"id": request_id, **fields}, fd)


async def greet(sock: socket.socket, hello: Hello, secret: SharedSecret | None = None) -> Greeting:
    """The client's side, at a cache service. See `say_hello`."""
    descriptors: list[int] = []
    try:
        reply = HelloReply.read(await say_hello(sock, Hello.op, hello.fields(), secret, descriptors))
        arena_fd = _arena_descriptor(reply, descriptors)
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return Greeting(reply, arena_fd)


async def receive_hello(sock: socket.socket, secrets: Mapping[str, SharedSecret] | None) -> HelloRequest:
    """The cache service's side, up to the decision. See `hear_hello`."""
    heard = await hear_hello(sock, Hello.op, PROTOCOL_VERSION, _read_hello, secrets)
    hello, secret = heard.hello, heard.secret
    if secret is None:
        return HelloRequest(heard.request_id, hello, None)
    if secret.namespace is not None and hello.namespace not in (None, secret.namespace):
        error = ServiceError(f"secret {secret.name!r} is of another namespace than {hello.namespace!r}")
        await _try_to_refuse(sock, heard.request_id, error)
        raise error
    if secret.namespace is not None:
        hello = replace(hello, namespace=secret.namespace)
    return HelloRequest(heard.request_id, hello, secret.name)


async def accept_hello(sock: socket.socket, request_id: int, reply: HelloReply, fd: int | None = None) -> None:
    """Say yes, with the arena's file descriptor where there is one. See `welcome`."""
    await welcome(sock, request_id, reply.fields(), fd)


async def refuse_hello(sock: socket.socket, request_id: int, error: CacheError) -> None:
    """Say no, and why.

    Raises:
        ServiceError: the connection ended.
    """
    await _send(sock, error_fields(request_id, error))


def _read_hello(fields: dict[str, Any]) -> Hello:
    hello = Hello.read(fields)
    if len(hello.client) > MAX_NAME_CHARACTERS:
        raise ProtocolError(
            f"a client's name has at most {MAX_NAME_CHARACTERS} characters, this one {len(hello.client)}"
        )
    if hello.namespace is not None and not is_namespace(hello.namespace):
        raise ProtocolError(f"{hello.namespace[:80]!r} cannot be a namespace")
    return hello


# Both prove to have the secret, the client first: it came to a service of its choice, while anyone can come to the
# service and try to make it prove.


async def _prove_to_service(sock: socket.socket, secret: SharedSecret, sent: bytes) -> None:
    challenge = _refused((await _receive(sock))[0])
    nonce = challenge.get("nonce")
    if not isinstance(nonce, bytes) or len(nonce) != _NONCE_BYTES:
        raise ServiceError("the service asks for no secret, so it may be another one than meant")
    await _send(sock, {"op": "prove", "id": _HELLO_ID, "proof": _proof(secret.secret, b"client", sent, nonce)})
    proof = _refused((await _receive(sock))[0]).get("proof")
    if not _is_same(proof, _proof(secret.secret, b"service", sent, nonce)):
        raise ServiceError(f"the service does not have secret {secret.name!r}")


async def _prove_to_client(
    sock: socket.socket, secrets: Mapping[str, SharedSecret], name: str, request_id: int, sent: bytes
) -> SharedSecret:
    nonce = random_bytes.token_bytes(_NONCE_BYTES)
    await _send(sock, {"id": request_id, "nonce": nonce})
    proof = (await _receive(sock))[0].get("proof")
    secret = secrets.get(name)
    # An unknown name takes the same time and gets the same answer as a wrong secret: names cannot be tried out.
    key = random_bytes.token_bytes(_NONCE_BYTES) if secret is None else secret.secret
    if not _is_same(proof, _proof(key, b"client", sent, nonce)) or secret is None:
        raise ServiceError("the shared secret is wrong")
    await _send(sock, {"id": request_id, "proof": _proof(key, b"service", sent, nonce)})
    return secret


def _proof(secret: bytes, who: bytes, sent: bytes, nonce: bytes) -> bytes:
    """Over the hello's header, in which the client's nonce is, and the service's nonce, both of fixed length."""
    return hmac.digest(secret, hashlib.sha256(sent).digest() + nonce + b"instgenie cache, " + who, "sha256")


def _is_same(proof: object, expected: bytes) -> bool:
    return isinstance(proof, bytes) and hmac.compare_digest(proof, expected)


def _refused(header: dict[str, Any]) -> dict[str, Any]:
    """The header of a reply, or what it says is wrong.

    Raises:
        ServiceError: the service refused.
    """
    error = read_error(header)
    if isinstance(error, ServiceError):
        raise error
    if error is not None:
        raise ServiceError(str(error)) from error
    if header.get("id") != _HELLO_ID:
        raise ProtocolError(f"an answer to {repr(header.get('id'))[:20]}, hello was {_HELLO_ID}")
    return header


def _without_id(header: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in header.items() if name != "id"}


def _arena_descriptor(reply: HelloReply, descriptors: list[int]) -> int | None:
    """The one that came with the reply, if it is as large as the reply says: reading beyond its end kills a process."""
    if reply.arena_bytes is None and not descriptors:
        return None
    if reply.arena_bytes is None or len(descriptors) != 1:
        raise ProtocolError(f"{len(descriptors)} file descriptors for an arena of {reply.arena_bytes} bytes")
    if (num_bytes := os.fstat(descriptors[0]).st_size) < reply.arena_bytes:
        raise ProtocolError(f"an arena of {reply.arena_bytes} bytes was promised, it has {num_bytes}")
    return descriptors[0]


async def _send(sock: socket.socket, header: dict[str, Any], fd: int | None = None) -> bytes:
    """Send a frame without payload, and return its header as it was sent."""
    frame = encode_frame_head(header, 0)
    sent_bytes = 0
    try:
        if fd is not None:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            sent_bytes = sock.sendmsg([frame], rights)  # the first of this size on this side: there is room
        if sent_bytes < len(frame):
            await asyncio.get_running_loop().sock_sendall(sock, frame[sent_bytes:])
    except OSError as error:
        raise ServiceError(f"the connection ended during the handshake: {error}") from error
    return frame[PREFIX_BYTES:]


async def _try_to_refuse(sock: socket.socket, request_id: int, error: CacheError) -> None:
    try:
        await refuse_hello(sock, request_id, error)
    except ServiceError as gone:  # the first error tells more
        error.add_note(f"which the client was not told: {gone}")


async def _receive(
    sock: socket.socket, descriptors: list[int] | None = None, max_header_bytes: int = MAX_FRAME_BYTES - PREFIX_BYTES
) -> tuple[dict[str, Any], bytes]:
    """A frame's header, and as the bytes that came; file descriptors that came along go to the list."""
    prefix = await _receive_exactly(sock, PREFIX_BYTES, descriptors)
    header_bytes, _ = decode_prefix(prefix, max_payload_bytes=0, max_header_bytes=max_header_bytes)
    data = await _receive_exactly(sock, header_bytes, descriptors)
    return decode_header(data), data


async def _receive_exactly(sock: socket.socket, num_bytes: int, descriptors: list[int] | None) -> bytes:
    received = bytearray()
    while len(received) < num_bytes:
        missing = num_bytes - len(received)
        try:
            if descriptors is None:
                data = await asyncio.get_running_loop().sock_recv(sock, missing)
            else:
                data = await _receive_with_descriptors(sock, missing, descriptors)
        except OSError as error:
            raise ServiceError(f"the connection ended during the handshake: {error}") from error
        if not data:
            raise ServiceError("the connection ended during the handshake")
        received += data
    return bytes(received)


async def _receive_with_descriptors(sock: socket.socket, num_bytes: int, descriptors: list[int]) -> bytes:
    room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize)
    while True:
        try:
            data, ancillary, _, _ = sock.recvmsg(num_bytes, room, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            await _readable(sock)
            continue
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                came = array.array("i")
                came.frombytes(content[: len(content) - len(content) % came.itemsize])
                descriptors.extend(came)
        return data


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)
