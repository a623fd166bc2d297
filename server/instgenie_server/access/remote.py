"""Where a request comes from, as far as limits are concerned."""

from __future__ import annotations

import ipaddress


def counted_as(key_id: str | None, remote: str) -> str:
    """For whom the limits of one caller count a request: its key, or where there is none the network."""
    return key_id or f"remote {network_of(remote)}"


def network_of(remote: str) -> str:
    """What one caller can be expected to own: an IPv4 address, or 64 bits of an IPv6 one."""
    try:
        address = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:
        return remote  # a socket without addresses
    if isinstance(address, ipaddress.IPv4Address):
        return remote
    return str(address.ipv4_mapped or ipaddress.ip_network((int(address), 64), strict=False))
