"""Sockets that the service listens at."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from instgenie_cache.errors import ServiceError
from instgenie_cache.wire.address import Address

_BACKLOG = 1024
# A TCP client that is cut off without a word is gone after idle + interval x count seconds, and with it its leases.
_KEEPALIVE = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3, socket.TCP_USER_TIMEOUT: 25_000}


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that clients come to.

    Attributes:
        path, inode: of a Unix socket, where it is and which file it is.
    """

    sock: socket.socket
    path: Path | None = None
    inode: tuple[int, int] | None = None

    @property
    def address(self) -> Address:
        """Where it listens, with the port that the system chose where that was 0."""
        if self.path is not None:
            return Address(path=str(self.path))
        name = self.sock.getsockname()
        return Address(host=name[0], port=name[1])

    def close(self) -> None:
        """Listen no more. The file goes, unless another one has come into its place."""
        if self.path is not None and self.inode == _inode(self.path):
            self.path.unlink(missing_ok=True)
        self.sock.close()


def listen_unix(path: Path, mode: int) -> Listener:
    """Listen at a path; a socket that nobody listens at any more is replaced.

    Args:
        mode: of the file: whoever may write to it may connect.

    Raises:
        ServiceError: a service listens there already, there is a file that is no socket, or the system refuses.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _starting_alone(path):
            _clear(path)
            listener.bind(str(path))
            inode = _inode(path)
            path.chmod(mode)  # before `listen`: nobody can connect until then
            listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ServiceError(f"cannot listen at unix:{path}: {error.strerror or error}") from error
    except BaseException:
        listener.close()
        raise
    return Listener(listener, path, inode)


def listen_tcp(address: Address) -> Listener:
    """Listen at a host's port.

    Raises:
        ServiceError: the host is unknown, or the port cannot be had.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ServiceError(f"cannot listen at {address}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ServiceError(f"cannot listen at {address}: {error.strerror or error}") from error
    return Listener(listener)


def prepare_accepted(sock: socket.socket) -> None:
    """Options of a client's socket."""
    sock.setblocking(False)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _starting_alone(path: Path) -> Iterator[None]:
    """Two services that start at once would remove each other's socket.

    Raises:
        ServiceError: another one starts just now.
        OSError: the file beside the socket that stands for this cannot be locked. It stays when it is unlocked: another
            service may have opened it meanwhile.
    """
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ServiceError(f"another service begins to listen at unix:{path} just now") from error
        yield
    finally:
        os.close(descriptor)


def _clear(path: Path) -> None:
    """Remove the socket of a service that is gone."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise ServiceError(f"{path} is there already, and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:  # it listens, and its queue is full
            pass
    raise ServiceError(f"a service listens at unix:{path} already")
