"""What front ends may have of a replica at a time, and for how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """Bounds of a `ReplicaService`.

    Attributes:
        connections: at a time.
        orders: that one connection waits for.
        requests: other than orders, that wait for an answer on one connection.
        pins: keys that front ends may have pinned, all of them together.
        order_bytes: of all orders' pictures and masks.
        kept_bytes, kept_seconds: of ends that nobody has acknowledged.
        orphan_seconds: that an order goes on, and a pin stays, when who asked for it is gone.
        unread_seconds: that a front end may read nothing of what it is sent.
        stall_seconds: that may pass within a frame without a byte of it.
    """

    connections: int = 64
    orders: int = 1024
    requests: int = 256
    pins: int = 100_000
    order_bytes: int = 4 << 30
    kept_bytes: int = 256 << 20
    kept_seconds: float = 600.0
    orphan_seconds: float = 60.0
    unread_seconds: float = 30.0
    stall_seconds: float = 60.0
