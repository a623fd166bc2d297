"""What a service has granted on a connection, and how it is given back where nobody waits for it. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from instgenie_cache.wire.messages import (
    Abort,
    CreateReply,
    Fetch,
    FetchReply,
    LeaseReply,
    Message,
    Pin,
    PinReply,
    Release,
    Request,
)

Key = TypeVar("Key")


@dataclass(slots=True)
class _Claim:
    """On something that the connection has once, however often it is asked for: a mapped step, or a pin.

    Attributes:
        first: number of the request that began it; what was asked before has nothing to do with it.
        asked: requests that are not answered.
        held: those that got it, and whose answers were taken, as far as is known.
    """

    first: int
    asked: int = 0
    held: int = 0

    @property
    def is_void(self) -> bool:
        """Whether nobody has it, or may get it."""
        return self.asked == 0 and self.held == 0


class Grants:
    """Follows the requests of one connection, in the order in which they are sent, and their answers."""

    def __init__(self) -> None:
        self._pins: dict[str, _Claim] = {}
        self._steps: dict[int, dict[int, _Claim]] = {}  # by lease

    def asked(self, number: int, request: Request) -> None:
        """A request is sent. Numbers grow."""
        match request:
            case Fetch():
                _ask(self._steps.setdefault(request.lease, {}), request.step, number)
            case Release(step=None):
                self._steps.pop(request.lease, None)
            case Release(step=int(step)):
                self._steps.get(request.lease, {}).pop(step, None)
            case Pin(pinned=True):
                _ask(self._pins, request.template, number)
            case Pin():
                self._pins.pop(request.template, None)

    def answered(self, number: int, request: Request, reply: Message | None) -> None:
        """It is answered, by an error if that is None."""
        match request:
            case Fetch():
                is_mapped = isinstance(reply, FetchReply) and reply.pieces is not None
                steps = self._steps.get(request.lease, {})
                _answer(steps, request.step, number, is_held=is_mapped)
                if not steps:
                    self._steps.pop(request.lease, None)
            case Pin(pinned=True):
                is_held = isinstance(reply, PinReply) and reply.held
                _answer(self._pins, request.template, number, is_held=is_held)

    def to_give_back(self, number: int, request: Request, reply: Message) -> Request | None:
        """What to send where nobody takes a reply; None where nothing, or nothing that is not somebody else's, too."""
        match reply:
            case LeaseReply(lease=int(lease)):
                return Release(lease=lease)
            case CreateReply():
                return Abort(writer=reply.writer)
            case FetchReply(pieces=list()) if isinstance(request, Fetch):
                claim = self._steps.get(request.lease, {}).get(request.step)
                # Released since: maybe before the service had it, so once more.
                is_ours = claim is None or _give_up(claim, number)
                return Release(lease=request.lease, step=request.step) if is_ours else None
            case PinReply(held=True) if isinstance(request, Pin) and request.pinned:
                claim = self._pins.get(request.template)
                is_ours = claim is not None and _give_up(claim, number)
                return Pin(template=request.template, pinned=False) if is_ours else None
        return None


def _ask(claims: dict[Key, _Claim], key: Key, number: int) -> None:
    claims.setdefault(key, _Claim(number)).asked += 1


def _answer(claims: dict[Key, _Claim], key: Key, number: int, *, is_held: bool) -> None:
    claim = claims.get(key)
    if claim is None or number < claim.first:
        return
    claim.asked -= 1
    claim.held += is_held
    if claim.is_void:
        del claims[key]


def _give_up(claim: _Claim, number: int) -> bool:
    """Nobody takes the answer of a request that got something: whether nobody else has it, or may get it."""
    if number < claim.first:
        return False
    claim.held -= 1
    return claim.is_void
