"""Another process for each member of a fleet, one after the other, while the others work."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from instgenie_server.fleet.roster import Roster
from instgenie_server.fleet.seat import Seat
from instgenie_server.processes.kept_process import RenewError

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

JOIN_SECONDS = 60.0  # from a process that is ready until it is connected to, and pins are made again


async def renew_all(roster: Roster, drain_seconds: float) -> None:
    """Renew those that are ours to end, and there: others are being started as it is. Where one does not come back, the
    rest is left as it is.

    Args:
        drain_seconds: that a member may finish what it has; then its edits are begun again elsewhere.
    """
    seats = [seat for seat in roster if seat.member.renew is not None and seat.member.replica.state == "ready"]
    if not seats:
        log.warning("there are no replicas of the server's own to renew")
        return
    log.info("renewing the replicas, one after the other", replicas=len(seats))
    for seat in seats:
        if len(roster) > 1 and not any(other is not seat for other in roster.ready()):
            log.error("no other replica takes edits: this one is left as it is", replica=seat.id)
            return
        seat.is_renewed = True
        roster.refresh()
        try:
            await _renew(seat, drain_seconds)
        except (RenewError, TimeoutError) as error:
            reason = str(error) or "it could not be connected to"
            log.error("a replica could not be renewed: the others stay as they are", replica=seat.id, reason=reason)
            return
        finally:
            seat.is_renewed = False
            roster.refresh()
    log.info("the replicas are renewed", replicas=len(seats))


async def _renew(seat: Seat, drain_seconds: float) -> None:
    """Raises:
    RenewError: no other process became ready, or it serves another model.
    TimeoutError: it could not be connected to.
    """
    assert seat.member.renew is not None
    log.info("renewing a replica: it finishes what it has", replica=seat.id, orders=seat.orders)
    with suppress(TimeoutError):
        async with asyncio.timeout(drain_seconds):
            await seat.idle()
    seat.joined.clear()
    await seat.member.renew()
    async with asyncio.timeout(JOIN_SECONDS):
        await seat.joined.wait()
    if seat.is_refused:
        raise RenewError("it serves another model than the others")
