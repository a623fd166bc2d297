"""What a front end has asked a replica and not been answered yet, whichever connections it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from instgenie.errors import InvalidInputError, ReplicaError
from instgenie.orders import StepReport
from instgenie.replica.messages import MAX_PAYLOAD_BYTES, Body, Report, decode_error, decode_report
from instgenie.replica.replica_link import ReplicaLink
from instgenie_cache.errors import ProtocolError
from instgenie_cache.wire.frames import encode_frame_head

_FIRST_ID = 2  # the hello's is 1


@dataclass(slots=True, eq=False)
class _Call:
    """Something that the replica was asked, on whichever connection.

    Attributes:
        answer: header and payload of the last frame.
        told: number of the last report that was handed on: who attaches again is told some of them again.
        is_left: nobody waits for it any more.
    """

    id: int
    body: Body
    order: str | None
    report: Callable[[Any], None] | None
    answer: asyncio.Future[tuple[dict[str, Any], bytes]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    told: int = -1
    is_left: bool = False

    def tell(self, report: Report) -> None:
        number = report.step if isinstance(report, StepReport) else report.number
        if number > self.told and not self.is_left and self.report is not None:
            self.told = number
            self.report(report)


class RemoteCalls:
    """Asks over the connection that there is, and again over the next one. A `LinkUser`.

    Attributes:
        leaving: set where the replica takes no new orders, or everything fails.
        has_ended: the replica has said that it ends.
        error: why everything fails from now on; None while it does not.
    """

    def __init__(self) -> None:
        self.leaving = asyncio.Event()
        self.has_ended = False
        self.error: ReplicaError | None = None
        self._calls: dict[int, _Call] = {}
        self._last_id = _FIRST_ID - 1
        self._cancelled: set[str] = set()  # orders, while there is no connection
        self._link: ReplicaLink | None = None

    async def ask(
        self, body: Body, order: str | None = None, report: Callable[[Any], None] | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """Ask, and wait for the answer, over as many connections as it takes.

        Raises:
            InvalidInputError: it is nothing that can be sent.
            InstGenIEError: what the replica answers.
            ReplicaError: it is gone.
        """
        if self.error is not None:
            raise ReplicaError(str(self.error))
        self._last_id += 1
        _check_sendable(self._last_id, body)
        call = self._calls[self._last_id] = _Call(self._last_id, body, order, report)
        if (link := self._live_link()) is not None:
            link.send(call.id, body)
        try:
            header, payload = await call.answer
        except asyncio.CancelledError:
            self._leave(call)
            raise
        if "error" in header:
            raise decode_error(header)
        return header, payload

    def use(self, link: ReplicaLink | None) -> None:
        """Ask on this connection from now on, and all that is not answered yet; None is no connection."""
        self._link = link
        if link is None:
            return
        if link.welcome.is_draining:
            self.leaving.set()
        for order in self._cancelled:
            self._send(Body({"op": "cancel", "order": order}))
        self._cancelled.clear()
        for call in self._calls.values():
            link.send(call.id, call.body)

    def abandon(self) -> None:
        """Tell the replica, if it can be told, that nobody here wants anything of it any more."""
        for order in {call.order for call in self._calls.values() if call.order is not None}:
            self._send(Body({"op": "cancel", "order": order}))
        self._send(Body({"op": "leave"}))

    def fail(self, reason: str) -> None:
        """Everything that waits fails, and what is asked from now on. A second time it does nothing."""
        if self.error is not None:
            return
        self.error = ReplicaError(reason)
        self.leaving.set()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            if not call.answer.done():
                call.answer.set_exception(ReplicaError(reason))

    # What a link tells.

    def wants(self, header: dict[str, Any]) -> bool:
        """See `LinkUser`."""
        return header.get("id") in self._calls

    def arrived(self, header: dict[str, Any], payload: bytes) -> None:
        """See `LinkUser`."""
        if header["id"] == 0:
            notice = header.get("notice")
            self.has_ended |= notice == "closing"
            if notice in ("draining", "closing"):
                self.leaving.set()
            return
        call = self._calls.get(header["id"])
        if call is None:
            return  # it was cancelled, or is a ping's answer
        if "event" in header:
            # Not at once: what the caller raises is none of the connection's business.
            asyncio.get_running_loop().call_soon(call.tell, decode_report(header, payload))
            return
        del self._calls[call.id]
        if call.order is not None:
            self._send(Body({"op": "acknowledge", "order": call.order}))
        if not call.answer.done():
            call.answer.set_result((header, payload))

    def _leave(self, call: _Call) -> None:
        """Nobody waits for the call any more. An order that somebody else here waits for, too, goes on."""
        call.is_left = True
        if self._calls.pop(call.id, None) is None or call.order is None:
            return
        if any(other.order == call.order for other in self._calls.values()):
            return
        if self._live_link() is None:
            self._cancelled.add(call.order)
        else:
            self._send(Body({"op": "cancel", "order": call.order}))

    def _send(self, body: Body) -> None:
        """Say something that needs no answer."""
        self._last_id += 1
        if (link := self._live_link()) is not None:
            link.send(self._last_id, body)

    def _live_link(self) -> ReplicaLink | None:
        return None if self._link is None or self._link.is_closed else self._link


def _check_sendable(request_id: int, body: Body) -> None:
    """Raise `InvalidInputError` where a frame cannot have these fields, or is too long."""
    try:
        encode_frame_head({"id": request_id, **body.fields}, body.payload_bytes)
    except (ProtocolError, ValueError, TypeError, OverflowError) as error:  # no Unicode, beyond 64 bits, no plain value
        raise InvalidInputError("order", f"cannot be sent: {error}") from error
    if body.payload_bytes > MAX_PAYLOAD_BYTES:
        raise InvalidInputError("order", f"{body.payload_bytes} bytes, at most {MAX_PAYLOAD_BYTES} can be sent")
