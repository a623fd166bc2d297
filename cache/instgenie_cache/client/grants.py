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
    """On something that one has once, however often it is asked for: a mapped step, or a pin.

    Attributes:
        asked: number of the last request for it.
        held: number of the first one that got it.
    """

    asked: int
    held: int | None = None

    def is_given_up_by(self, number: int) -> bool:
        """Nobody takes a request's answer: whether nobody else has it, or asked later, and would lose it."""
        if self.asked == number and self.held in (None, number):
            return True
        if self.held == number:  # it is now up to the later one
            self.held = None
        return False


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
                is_ours = claim is None or claim.is_given_up_by(number)
                return Release(lease=request.lease, step=request.step) if is_ours else None
            case PinReply(held=True) if isinstance(request, Pin) and request.pinned:
                claim = self._pins.get(request.template)
                is_ours = claim is not None and claim.is_given_up_by(number)
                return Pin(template=request.template, pinned=False) if is_ours else None
        return None


def _ask(claims: dict[Key, _Claim], key: Key, number: int) -> None:
    claim = claims.setdefault(key, _Claim(number))
    claim.asked = number


def _answer(claims: dict[Key, _Claim], key: Key, number: int, *, is_held: bool) -> None:
    claim = claims.get(key)
    if claim is None:
        return
    if is_held:
        if claim.held is None:
            claim.held = number
    elif claim.asked == number and claim.held is None:
        del claims[key]
