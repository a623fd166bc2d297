"""What one connection may have at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Bounds that keep the service's memory and threads from any one client.

    Attributes:
        writers, leases, pins: open at a time.
        requests: that wait for something, at a time. What gives something back is none.
        loads: steps that are loaded at a time; and as many templates that are looked up far away.
        unflushed: commits that are not durable and that a flush tells of; it says that there were more.
        unread_replies: small replies that wait for the client to read, before its requests wait too.
        room_seconds: that a put waits for memory before it is refused.
        idle_seconds: that a writer may be without a put, and a frame without a byte.
        unread_seconds: that a client may read nothing of what it is sent.
    """

    writers: int = 64
    leases: int = 1024
    pins: int = 4096
    requests: int = 256
    loads: int = 4
    unflushed: int = 10_000
    unread_replies: int = 64
    room_seconds: float = 10.0
    idle_seconds: float = 60.0
    unread_seconds: float = 30.0
