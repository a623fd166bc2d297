"""Ways to write an address."""

from __future__ import annotations

import pytest

from instgenie_cache.wire.address import Address
from instgenie_server.same_address import canonical, is_here


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("unix:/run/a.sock", "/run/a.sock"),
        ("unix:/run/a.sock", "unix:/run//b/.././a.sock"),
        ("unix:/run/a.sock", "unix://run/a.sock"),
        ("tcp://localhost:8740", "127.0.0.1:8740"),
        ("tcp://LOCALHOST.:8740", "[::1]:8740"),
        ("tcp://Node-1.example.:8740", "node-1.example:8740"),
        ("tcp://[2001:db8::1]:8740", "[2001:0DB8:0:0:0:0:0:1]:8740"),
    ],
)
def test_ways_to_write_one(one: str, other: str) -> None:
    assert canonical(Address.parse(one)) == canonical(Address.parse(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("unix:/run/a.sock", "unix:/run/b/a.sock"),
        ("tcp://127.0.0.1:8740", "tcp://127.0.0.1:8741"),
        ("tcp://127.0.0.1:8740", "tcp://127.0.0.2:8740"),
        ("tcp://node-1:8740", "tcp://node-2:8740"),
    ],
)
def test_others(one: str, other: str) -> None:
    assert canonical(Address.parse(one)) != canonical(Address.parse(other))


def test_this_host() -> None:
    addresses = ["unix:/run/a.sock", "tcp://localhost:1", "[::1]:1", "tcp://node-1:1", "10.0.0.1:1"]
    assert [is_here(Address.parse(address)) for address in addresses] == [True, True, True, False, False]
