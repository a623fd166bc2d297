"""What tenants have announced to write."""

from __future__ import annotations

from collections import Counter

from instgenie_cache.errors import StoreFullError


class AnnouncedBytes:
    """Bytes of the templates that are being written, by namespace, of all connections.

    Room is kept for a template from its announcement on, and nothing is evicted for others in that room. A client that
    sees all namespaces is not limited.
    """

    def __init__(self, limit_bytes: int) -> None:
        """Args:
        limit_bytes: of each namespace.
        """
        self._limit_bytes = limit_bytes
        self._announced: Counter[str] = Counter()

    def take(self, namespace: str | None, num_bytes: int) -> None:
        """Count a template in.

        Raises:
            StoreFullError: with it the namespace would have announced too much.
        """
        if namespace is None:
            return
        announced_bytes = self._announced[namespace]
        if announced_bytes + num_bytes > self._limit_bytes:
            raise StoreFullError(
                f"namespace {namespace!r} may have {self._limit_bytes} bytes announced at a time, "
                f"{announced_bytes} are, and {num_bytes} are to be"
            )
        self._announced[namespace] = announced_bytes + num_bytes

    def give(self, namespace: str | None, num_bytes: int) -> None:
        """Count it out."""
        if namespace is None:
            return
        self._announced[namespace] -= num_bytes
        if not self._announced[namespace]:
            del self._announced[namespace]
