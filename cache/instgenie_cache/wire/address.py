"""Where a service is: a Unix socket or a TCP port."""

from __future__ import annotations

import asyncio
import re
import socket
from dataclasses import dataclass
from typing import Self

from instgenie_cache.errors import ServiceError

MAX_UNIX_PATH_BYTES = 107  # of Linux' sockaddr_un, without the zero at its end
_HOST_PORT = re.compile(r"(?:tcp://)?(?:\[(?P<ipv6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\[\]:/]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Address:
    """A Unix socket's path, or else a host and a port."""

    path: str | None = None
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `unix:/path`, `/path`, `tcp://host:port`, `host:port` or `[ipv6]:port`.

        Raises:
            ValueError: it is none of these, the path is too long for a socket, or there is no such port.
        """
        path = text.removeprefix("unix:")
        if path.startswith("/"):
            if (length := len(path.encode())) > MAX_UNIX_PATH_BYTES:
                raise ValueError(f"a Unix socket's path has at most {MAX_UNIX_PATH_BYTES} bytes, {path!r} has {length}")
            if "\0" in path:
                raise ValueError(f"a path without zero bytes, not {path!r}")
            return cls(path=path)
        match = _HOST_PORT.fullmatch(text)
        if match is None:
            raise ValueError(f"an address is unix:/path, tcp://host:port or [ipv6]:port, not {text!r}")
        port = int(match["port"])
        if port > 65535:
            raise ValueError(f"a port is at most 65535, not {port}")
        return cls(host=match["ipv6"] or match["host"], port=port)

    @property
    def is_unix(self) -> bool:
        """A socket of this machine's file system, over which memory can be shared."""
        return self.path is not None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"


async def connect(address: Address, whom: str = "cache service") -> socket.socket:
    """A connected, non-blocking socket. The caller sets a deadline.

    Args:
        whom: what is expected there, for the error's message.

    Raises:
        ServiceError: nobody listens there, or the host is unknown.
    """
    try:
        if address.path is not None:
            return await _connected(socket.AF_UNIX, address.path)
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        for family, _, _, _, where in found[:-1]:
            try:
                return await _connected(family, where)
            except OSError:
                continue
        return await _connected(found[-1][0], found[-1][4])
    except (OSError, ValueError, OverflowError) as error:  # a name that is no name, a port that is none
        raise ServiceError(f"no {whom} at {address}: {error}") from error


async def _connected(family: int, where: object) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, where)  # type: ignore[arg-type]
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # frames of a few bytes must not wait
    except BaseException:
        sock.close()
        raise
    return sock
