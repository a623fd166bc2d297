"""Where a request comes from, as far as limits are concerned."""

from __future__ import annotations

import ipaddress


def network_of(remote: str) -> str:
    """What one caller can be expected to own: an IPv4 address, or 64 bits of an IPv6 one."""
    try:
        address = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:
        return remote  # a socket without addresses
    if isinstance(address, ipaddress.IPv4Address):
        return remote
    return str(address.ipv4_mapped or ipaddress.ip_network((int(address), 64), strict=False))
