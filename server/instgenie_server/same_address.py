"""Whether two addresses are one, as far as that can be told without asking anybody."""

from __future__ import annotations

import ipaddress
import posixpath
from contextlib import suppress

from instgenie_cache.wire.address import Address

_THIS_HOST = "localhost"
_LOOPBACK = (_THIS_HOST, "127.0.0.1", "::1")


def canonical(address: Address) -> Address:
    """The same for several ways to write an address: dots and slashes in a path, forms of an IP address, names of this
    host. Symbolic links and other names stay what they are.
    """
    if address.path is not None:
        return Address(path="/" + posixpath.normpath(address.path).lstrip("/"))
    host = address.host.lower().removesuffix(".")
    with suppress(ValueError):
        host = str(ipaddress.ip_address(host))
    return Address(host=_THIS_HOST if host in _LOOPBACK else host, port=address.port)


def is_here(address: Address) -> bool:
    """Whether it is surely this host's."""
    return address.is_unix or canonical(address).host == _THIS_HOST
