"""Addresses that count as one caller."""

from __future__ import annotations

import pytest

from instgenie_server.access.remote import network_of


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
