"""Addresses of the service: read from text, and connected to."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from instgenie_cache.errors import ServiceError
from instgenie_cache.wire.address import Address, connect


@pytest.mark.parametrize(
    ("text", "address", "canonical"),
    [
        ("unix:/run/cache.sock", Address(path="/run/cache.sock"), "unix:/run/cache.sock"),
        ("/run/cache.sock", Address(path="/run/cache.sock"), "unix:/run/cache.sock"),
        ("tcp://cache.local:7000", Address(host="cache.local", port=7000), "tcp://cache.local:7000"),
        ("10.0.0.7:7000", Address(host="10.0.0.7", port=7000), "tcp://10.0.0.7:7000"),
        ("[::1]:7000", Address(host="::1", port=7000), "tcp://[::1]:7000"),
        ("tcp://[fe80::1%eth0]:1", Address(host="fe80::1%eth0", port=1), "tcp://[fe80::1%eth0]:1"),
    ],
)
def test_address_is_read_and_written(text: str, address: Address, canonical: str) -> None:
    assert Address.parse(text) == address
    assert str(address) == canonical
    assert Address.parse(canonical) == address
    assert address.is_unix == canonical.startswith("unix:")


@pytest.mark.parametrize(
    "text", ["", "cache.sock", "unix:cache.sock", "tcp://host", "host:", ":80", "::1:80", "http://host:80", "a:b:80"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="an address is unix:/path, tcp://host:port"):
        Address.parse(text)


def test_port_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="at most 65535, not 65536"):
        Address.parse("host:65536")


def test_unix_path_has_a_limit_in_bytes() -> None:
    assert Address.parse("/" + "a" * 106).path == "/" + "a" * 106
    with pytest.raises(ValueError, match=r"at most 107 bytes, .* has 108"):
        Address.parse("/" + "a" * 107)
    with pytest.raises(ValueError, match=r"at most 107 bytes, .* has 109"):
        Address.parse("/" + "é" * 54)


async def test_connects_over_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with await connect(Address(path=path)) as sock:
            assert sock.getpeername() == path
            assert not sock.getblocking()


async def test_connects_over_tcp_without_delay_of_small_frames() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        await connect(Address(host="127.0.0.1", port=listener.getsockname()[1])) as sock,
    ):
        assert sock.getpeername() == listener.getsockname()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_nobody_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ServiceError, match=f"no cache service at tcp://127.0.0.1:{port}: "):
        await connect(Address(host="127.0.0.1", port=port))
    with pytest.raises(ServiceError, match=r"no cache service at unix:.*/none: "):
        await connect(Address(path=str(tmp_path / "none")))
    with pytest.raises(ServiceError, match="no cache service"):
        await connect(Address(host="a" * 300, port=1))
