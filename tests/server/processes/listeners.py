"""At which addresses a process and those below it listen, as Linux tells it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_LISTENING = "0A"  # of the kernel's states of a TCP socket

Host = ipaddress.IPv4Address | ipaddress.IPv6Address


def listeners_below(process_id: int) -> dict[int, set[Host]]:
    """The addresses of each, by its process id; IPv4 ones that are told as IPv6 are IPv4."""
    hosts = dict(_listening_sockets())
    found: dict[int, set[Host]] = {}
    for below in _tree(process_id):
        for inode in _sockets(below):
            if inode in hosts:
                found.setdefault(below, set()).add(hosts[inode])
    return found


def _tree(process_id: int) -> Iterator[int]:
    yield process_id
    for thread in Path(f"/proc/{process_id}/task").glob("*"):
        with suppress(OSError):
            for child in (thread / "children").read_text().split():
                yield from _tree(int(child))


def _sockets(process_id: int) -> Iterator[str]:
    """Their inodes."""
    for descriptor in Path(f"/proc/{process_id}/fd").glob("*"):
        with suppress(OSError):
            kind, _, inode = str(descriptor.readlink()).partition(":")
            if kind == "socket":
                yield inode.strip("[]")


def _listening_sockets() -> Iterator[tuple[str, Host]]:
    """Inodes and addresses."""
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING:
                yield fields[9], _host(fields[1].partition(":")[0])


def _host(text: str) -> Host:
    """Hexadecimal words of 32 bits, each in the order of this machine's bytes."""
    words = (text[i : i + 8] for i in range(0, len(text), 8))
    packed = b"".join(socket.htonl(int(word, 16)).to_bytes(4) for word in words)
    host = ipaddress.ip_address(packed)
    return (isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped) or host
