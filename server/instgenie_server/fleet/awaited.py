"""Which replicas a server waits for, and why they take no edits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from instgenie_server.fleet.member import Member


@dataclass(frozen=True, slots=True)
class Awaited:
    """A replica that takes no edits.

    Attributes:
        seconds: since when; None where that is not known.
        reason: what its address, its process or the fleet said last.
    """

    id: str
    reason: str
    seconds: float | None = None


def awaited(member: Member) -> Awaited:
    """A member that is away."""
    return Awaited(member.id, member.replica.away_reason, member.replica.away_seconds)


class FirstReplicas:
    """The replicas of a server until the first one is ready, for whoever asks what it waits for."""

    def __init__(self) -> None:
        """None are known yet."""
        self._members: Sequence[Member] = ()

    def expect(self, members: Sequence[Member]) -> None:
        """They are being started, or connected to."""
        self._members = members

    def awaited(self) -> list[Awaited]:
        """Those that are not ready."""
        return [awaited(member) for member in self._members if member.replica.state != "ready"]
