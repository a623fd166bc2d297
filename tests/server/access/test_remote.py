"""Addresses that count as one caller."""

from __future__ import annotations

import pytest

from instgenie_server.access.remote import counted_as, network_of


@pytest.mark.parametrize(
    ("remote", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_network(remote: str, network: str) -> None:
    assert network_of(remote) == network


def test_limits_count_keys_and_else_networks() -> None:
    assert counted_as("k1", "127.0.0.1") == "k1"
    assert counted_as(None, "2001:db8::1") == counted_as(None, "2001:db8::2") == "remote 2001:db8::/64"
    assert counted_as(None, "192.0.2.1") != counted_as(None, "192.0.2.2")
