"""The service at real sockets: who is let in, who is not, and what is left when they go."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from instgenie_cache import CacheError, ServiceError, TemplateSize
from instgenie_cache.client.cache_client import CacheClient
from instgenie_cache.records.record import RecordKey, decode_record
from instgenie_cache.service import cache_service
from instgenie_cache.service.cache_service import MAX_HANDSHAKES, CacheService
from instgenie_cache.service.listeners import listen_unix
from instgenie_cache.service.service_process import store_settings
from instgenie_cache.service.service_settings import ServiceSettings
from instgenie_cache.stores.build_store import build_store
from instgenie_cache.stores.tiered_store import TieredStore
from instgenie_cache.wire.address import Address, connect
from instgenie_cache.wire.frames import encode_frame_head
from instgenie_cache.wire.handshake import SharedSecret, greet
from instgenie_cache.wire.messages import PROTOCOL_VERSION, Create, Fetch, Hello, HelloReply, Lease, Pin, Stat
from tests.cache.small_stores import RECORD_BYTES, FakeTier, fill_of, fill_template, tiered_store

HELLO = Hello(version=PROTOCOL_VERSION, client="test")
SIZE = TemplateSize(2, 2, 100_000)
SECRETS = (
    {"name": "all", "secret": "all-of-them-12345"},
    {"name": "tenant", "secret": "one-of-them-12345", "namespace": "a"},
)


@asynccontextmanager
async def serving(folder: Path, **settings: Any) -> AsyncIterator[tuple[CacheService, TieredStore]]:
    """A service in this loop, in memory alone."""
    parsed = ServiceSettings.model_validate({"folder": folder, "host_bytes": 32 << 20, "disk_bytes": 0, **settings})
    store = build_store(store_settings(parsed))
    service = CacheService(store, parsed)
    try:
        await service.start()
        yield service, store
    finally:
        await service.close()
        store.close()


async def hello(
    address: Address, said: Hello = HELLO, secret: SharedSecret | None = None
) -> tuple[socket.socket, HelloReply]:
    """A connection that is through its handshake, bare."""
    sock = await connect(address)
    try:
        greeting = await greet(sock, said, secret)
    except BaseException:
        sock.close()
        raise
    if greeting.arena_fd is not None:
        os.close(greeting.arena_fd)
    return sock, greeting.reply


async def until(condition: Any) -> None:
    """Wait until something has become true."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.002)


async def ended(sock: socket.socket) -> bytes:
    """What still comes until the service closes the connection."""
    loop, received = asyncio.get_running_loop(), b""
    async with asyncio.timeout(10):
        while True:
            try:
                data = await loop.sock_recv(sock, 65536)
            except ConnectionResetError:
                return received
            if not data:
                return received
            received += data


async def test_only_the_owner_may_connect_by_default(tmp_path: Path) -> None:
    async with serving(tmp_path) as (service, _):
        [address] = service.addresses
        assert address == Address(path=str(tmp_path / "cache.sock"))
        assert stat.S_IMODE((tmp_path / "cache.sock").stat().st_mode) == 0o600
    assert not (tmp_path / "cache.sock").exists()


async def test_the_socket_of_a_dead_service_is_replaced_and_that_of_a_live_one_is_not(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "cache.sock"))
    async with serving(tmp_path) as (service, _):
        with pytest.raises(ServiceError, match=r"a service listens at .* already"):
            async with serving(tmp_path):
                pass
        sock, _ = await hello(service.addresses[0])
        sock.close()


async def test_a_file_in_the_sockets_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cache.sock").write_text("precious")
    with pytest.raises(ServiceError, match="is there already, and is no socket"):
        async with serving(tmp_path):
            pass
    assert (tmp_path / "cache.sock").read_text() == "precious"


async def test_the_arena_is_handed_to_those_who_see_everything_alone(tmp_path: Path) -> None:
    async with serving(tmp_path) as (service, store):
        for namespace, arena, expected in (
            (None, "read", store.arena.num_bytes),
            (None, "write", store.arena.num_bytes),
            (None, "none", None),
            ("a", "read", None),
        ):
            said = Hello(version=PROTOCOL_VERSION, client="t", namespace=namespace, arena=arena)  # type: ignore[arg-type]
            sock, reply = await hello(service.addresses[0], said)
            sock.close()
            assert reply.arena_bytes == expected


async def test_over_tcp_the_secret_decides_what_is_seen(tmp_path: Path) -> None:
    async with serving(tmp_path, tcp="127.0.0.1:0", secrets=SECRETS) as (service, store):
        fill_template(store, "a/t", SIZE)
        fill_template(store, "b/t", SIZE)
        address = service.addresses[1]
        for name, secret, templates in (("all", b"all-of-them-12345", 2), ("tenant", b"one-of-them-12345", 1)):
            client = await CacheClient.connect(address, client="t", secret=SharedSecret(name, secret))
            reply = await client.request(Stat())
            assert _message(reply).templates == templates
            await client.close()
        for wrong in (SharedSecret("all", b"x" * 16), SharedSecret("none", b"x" * 16)):
            with pytest.raises(ServiceError, match="secret is wrong"):
                await hello(address, HELLO, wrong)
        with pytest.raises(ServiceError, match="asks for a shared secret"):
            await hello(address)


async def test_another_version_is_told_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as (service, _):
        with pytest.raises(ServiceError, match=f"version 99 .* {PROTOCOL_VERSION}"):
            await hello(service.addresses[0], Hello(version=99, client="old"))


async def test_beyond_the_limit_a_client_is_refused_by_name(tmp_path: Path) -> None:
    async with serving(tmp_path, max_connections=1) as (service, _):
        first, _ = await hello(service.addresses[0])
        with pytest.raises(ServiceError, match="1 clients are connected, more are not allowed"):
            await hello(service.addresses[0])
        first.close()
        await until(lambda: service.connections == 0)
        second, _ = await hello(service.addresses[0])
        second.close()


async def test_silent_strangers_do_not_keep_clients_out(tmp_path: Path) -> None:
    async with serving(tmp_path) as (service, _):
        silent = [await connect(service.addresses[0]) for _ in range(300)]
        sock, _ = await hello(service.addresses[0])
        assert await ended(silent[0]) == b""  # the oldest gave way
        for other in (sock, *silent):
            other.close()


async def test_everything_is_free_soon_after_a_clients_death(tmp_path: Path) -> None:
    async with serving(tmp_path) as (service, store):
        fill_template(store, "t", SIZE)
        free = store.host.free_bytes
        client = await CacheClient.connect(service.addresses[0], client="t", arena="read")
        lease = _message(await client.request(Lease(template="t"))).lease
        await client.request(Fetch(lease=lease, step=0))
        await client.request(Pin(template="t"))
        await client.request(Create(template="new", steps=1, blocks=1, record_bytes=1000))
        assert store.host.evictable_bytes == 0
        await client.close()
        await until(lambda: store.host.evictable_bytes == store.host.used_bytes)
        assert store.host.free_bytes == free
        store.create("new", SIZE).abort()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n" * 10,
        b"IGC9" + bytes(12),
        b"IGC1" + b"\xff" * 12,
        b"IGC1" + (1 << 30).to_bytes(4, "little") + bytes(8),
        encode_frame_head({"id": 1, "op": "put", "writer": 1, "step": 0, "block": 0}, 1 << 40),
    ],
)
async def test_what_is_no_frame_ends_its_connection_alone(tmp_path: Path, garbage: bytes) -> None:
    async with serving(tmp_path) as (service, _):
        other, _ = await hello(service.addresses[0])
        sock, _ = await hello(service.addresses[0])
        await asyncio.get_running_loop().sock_sendall(sock, garbage)
        assert b"protocol" in await ended(sock)
        await until(lambda: service.connections == 1)
        early = await connect(service.addresses[0])
        await asyncio.get_running_loop().sock_sendall(early, garbage)
        await ended(early)
        for each in (other, sock, early):
            each.close()


class _WaitingTier(FakeTier):
    """Reads wait until they are let."""

    def __init__(self) -> None:
        super().__init__()
        self.may_read = threading.Event()

    def read_step(self, *arguments: Any, **options: Any) -> bool:
        assert self.may_read.wait(10)
        return super().read_step(*arguments, **options)


async def test_closing_answers_what_is_in_progress(tmp_path: Path) -> None:
    disk = _WaitingTier()
    store = tiered_store(disk, pages=1)
    one = TemplateSize(1, 1, RECORD_BYTES)
    for name in ("t", "newer"):  # for which `t` leaves the memory
        fill_template(store, name, one)
        store.flush()
    service = CacheService(store, ServiceSettings.model_validate({"folder": tmp_path, "disk_bytes": 0}))
    await service.start()
    client = await CacheClient.connect(service.addresses[0], client="t")
    lease = _message(await client.request(Lease(template="t"))).lease
    fetching = asyncio.ensure_future(client.request(Fetch(lease=lease, step=0)))
    await client.request(Stat())  # answered after the fetch was begun
    closing = asyncio.ensure_future(service.close())
    await until(lambda: not (tmp_path / "cache.sock").exists())
    assert not fetching.done()
    disk.may_read.set()
    _, payload = await fetching
    assert fill_of(decode_record(b"".join(payload), RecordKey("t", 0, 0))) == 0
    await closing
    with pytest.raises(CacheError):
        await client.request(Stat())
    await client.close()
    store.close()


async def test_pages_that_a_client_maps_are_kept_until_it_knows_that_its_connection_was_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_service, "LINGER_SECONDS", 10.0)
    async with serving(tmp_path) as (service, store):
        fill_template(store, "t", SIZE)
        for arena, is_kept in (("read", True), ("none", False)):
            said = Hello(version=PROTOCOL_VERSION, client="t", arena=arena)  # type: ignore[arg-type]
            sock, _ = await hello(service.addresses[0], said)
            for number, request in ((1, Lease(template="t")), (2, Fetch(lease=1, step=0))):
                header = {"id": number, "op": request.op, **request.fields()}
                await asyncio.get_running_loop().sock_sendall(sock, encode_frame_head(header, 0))
            await asyncio.get_running_loop().sock_recv(sock, 65536)
            await until(lambda: store.host.evictable_bytes < store.host.used_bytes)
            await asyncio.get_running_loop().sock_sendall(sock, b"nonsense" * 2)
            await ended(sock)
            assert (service.connections > 0) == is_kept
            assert (store.host.evictable_bytes < store.host.used_bytes) == is_kept
            sock.close()
            await until(lambda: service.connections == 0)
            assert store.host.evictable_bytes == store.host.used_bytes


async def test_one_secret_does_not_take_all_connections(tmp_path: Path) -> None:
    async with serving(tmp_path, max_connections=4, tcp="127.0.0.1:0", secrets=SECRETS) as (service, _):
        unix, tcp = service.addresses
        tenant = SharedSecret("tenant", b"one-of-them-12345")
        socks = [(await hello(tcp, HELLO, tenant))[0] for _ in range(2)]
        with pytest.raises(ServiceError, match="2 clients with secret 'tenant' are connected, more are not allowed"):
            await hello(tcp, HELLO, tenant)
        socks.append((await hello(tcp, HELLO, SharedSecret("all", b"all-of-them-12345")))[0])
        socks.append((await hello(unix))[0])
        socks.pop(0).close()
        await until(lambda: service.connections == 3)
        socks.append((await hello(tcp, HELLO, tenant))[0])
        for sock in socks:
            sock.close()


async def test_strangers_at_the_port_do_not_push_out_those_at_the_socket(tmp_path: Path) -> None:
    async with serving(tmp_path, tcp="127.0.0.1:0", secrets=SECRETS) as (service, _):
        unix, tcp = service.addresses
        early = await connect(unix)  # says nothing yet
        silent = [await connect(tcp) for _ in range(MAX_HANDSHAKES + 10)]
        assert await ended(silent[0]) == b""
        os.close((await greet(early, HELLO)).arena_fd or os.dup(0))
        for sock in (early, *silent):
            sock.close()


async def test_the_socket_of_another_service_in_its_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "shared.sock"
    async with serving(tmp_path / "a", socket=path):
        path.unlink()
        async with serving(tmp_path / "b", socket=path) as (service, _):
            inode = path.stat().st_ino
            listener = listen_unix(tmp_path / "moved.sock", 0o600)
            (tmp_path / "moved.sock").rename(path)
            listener.close()  # its file has another name by now
            assert path.stat().st_ino != inode
            assert service.addresses == [Address(path=str(path))]
        assert path.exists()  # it is not b's
    assert path.exists()


async def test_of_two_that_start_at_once_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cache.sock"
    with (tmp_path / "cache.sock.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ServiceError, match=r"another service begins to listen at .* just now"):
            listen_unix(path, 0o600)
    listen_unix(path, 0o600).close()
    assert not path.exists()


def _message(reply: Any) -> Any:
    """The message of a client's answer, with or without payload."""
    return reply[0] if isinstance(reply, tuple) else reply
