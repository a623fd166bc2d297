"""Who is in a fleet, and who takes orders: what members do is told to the balancer here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from logging import INFO, WARNING

import structlog

from instgenie.balancer.edit_demand import EditDemand
from instgenie.balancer.fleet import Fleet
from instgenie.balancer.policies import GONE_SECONDS, Balancer
from instgenie.balancer.replica_view import ReplicaProfile
from instgenie.errors import ReplicaAwayError
from instgenie.orders import ModelCard
from instgenie_server.fleet.awaited import Awaited, awaited
from instgenie_server.fleet.card_limits import limits_of
from instgenie_server.fleet.member import Member
from instgenie_server.fleet.seat import Seat
from instgenie_server.presence import Presence

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Roster:
    """All members of a fleet. Belongs to one event loop.

    Attributes:
        fleet: the balancer's view.
        presence: whether any member takes orders.
        card: of the model that the fleet serves; None before the first member was there.
        is_ending: the fleet is: that members go is as it should be.
    """

    def __init__(self, members: Sequence[Member], balancer: Balancer, now: Callable[[], float]) -> None:
        self.fleet = Fleet()
        self.presence = Presence(is_there=False)
        self.card: ModelCard | None = None
        self.is_ending = False
        self._balancer, self._now = balancer, now
        self._seats = {member.id: Seat(member) for member in members}
        for seat in self._seats.values():
            seat.member.replica.watch(partial(self._changed, seat))
            if seat.member.replica.state == "ready":
                self._changed(seat)

    def __iter__(self) -> Iterator[Seat]:
        """All, in their order."""
        return iter(self._seats.values())

    def __len__(self) -> int:
        """Members, there or not."""
        return len(self._seats)

    def ready(self) -> list[Seat]:
        """Those that take orders."""
        return [seat for seat in self if self._takes_orders(seat)]

    def awaited(self) -> list[Awaited]:
        """Those that do not."""
        return [self._awaited(seat) for seat in self if not self._takes_orders(seat)]

    def choose(self, demand: EditDemand, taken: Collection[str] = ()) -> Seat | None:
        """Where the edit goes.

        Args:
            taken: ids of seats where it is not to go.
        Returns:
            None where all are taken.
        Raises:
            ReplicaAwayError: nobody takes edits.
        """
        chosen = self._balancer.choose(demand, self.fleet, self._now())
        if chosen is None:
            raise self.away()
        seat = self._seats[chosen]
        if chosen not in taken and demand.id not in seat.failed:
            return seat
        # The first one in any case: since the clock was read, it may be too long that it was heard of.
        free = [other for other in dict.fromkeys((seat, *self.ready())) if other.id not in taken]
        others = [other for other in free if demand.id not in other.failed]
        return min(others or free, key=self._work_left, default=None)  # where it failed before, if nobody else is there

    def least_busy(self) -> Seat:
        """Where templates are recorded: with the fewest that are being recorded, then the least work that is left.

        Raises:
            ReplicaAwayError: nobody takes orders.
        """
        ready = self.ready()
        if not ready:
            raise self.away()
        return min(ready, key=lambda seat: (seat.warmups, self._work_left(seat)))

    def _work_left(self, seat: Seat) -> float:
        return self.fleet[seat.id].backlog().seconds

    def away(self) -> ReplicaAwayError:
        """That nobody takes orders. Whoever waits for somebody does not find that there is one."""
        self.update_presence()
        return ReplicaAwayError("there is no replica at the moment")

    def refresh(self) -> None:
        """Go by what is decided of the seats now."""
        self._compare_models()
        for seat in self:
            state = seat.wanted_state()
            if state != seat.state:
                seat.state = state
                self.fleet.set_state(seat.id, state)
        self.update_presence()

    def update_presence(self) -> None:
        """Whether there is anybody changes as time goes by, too: who says nothing for long gets no orders."""
        was_there, is_there = self.presence.is_there, bool(self.ready())
        if was_there and not is_there and not self.is_ending:
            are_told_to = all(seat.member.replica.state == "draining" for seat in self)
            log.log(INFO if are_told_to else WARNING, "no replica takes edits: they wait for one")
        self.presence.change(is_there=is_there)

    def learn_costs(self, seat: Seat) -> None:
        """Have the balancer know what the member last said of its steps."""
        costs = seat.member.replica.costs
        if costs != seat.costs:
            seat.costs = costs
            self.fleet.learn_costs(seat.id, costs, self._now())

    def _changed(self, seat: Seat) -> None:
        replica = seat.member.replica
        if replica.state == "ready":
            seat.card, seat.costs, seat.answered_at = replica.model, replica.costs, self._now()
            profile = ReplicaProfile(
                id=seat.id,
                machine=seat.member.machine,
                limits=limits_of(seat.card),
                usual_steps=seat.card.steps,
            )
            self.fleet.join(profile, seat.costs, self._now())
            seat.state = "starting"
            seat.works()
            seat.records.forget()
            if seat.member.renew is not None:  # else it may be the same process as before
                seat.is_hung = False
        self.refresh()
        if replica.state == "ready":
            self._compare_dtypes(seat)
            seat.joined.set()

    def _takes_orders(self, seat: Seat) -> bool:
        return seat.state == "ready" and self._now() - self.fleet[seat.id].heard_at <= GONE_SECONDS

    def _awaited(self, seat: Seat) -> Awaited:
        if seat.member.replica.state != "ready" or seat.card is None:
            return awaited(seat.member)
        if seat.trouble is not None:
            return Awaited(seat.id, seat.trouble)
        silent_seconds = self._now() - self.fleet[seat.id].heard_at
        return Awaited(seat.id, "it is connected to, and does not answer", silent_seconds)

    def _compare_models(self) -> None:
        """All that are used serve one model: the fleet's, for as long as any member served it last."""
        there = [(seat, seat.card) for seat in self if seat.member.replica.state == "ready" and seat.card is not None]
        known = [seat.card for seat in self if seat.card is not None]  # of those that are away, too
        if there and not any(_is_same(card, self.card) for card in known):
            if self.card is not None:
                log.warning("the fleet serves another model from now on", model=there[0][1].name)
            self.card = there[0][1]
        for seat, card in there:
            was_refused, seat.is_refused = seat.is_refused, not _is_same(card, self.card)
            if seat.is_refused and not was_refused:
                assert self.card is not None
                log.error(
                    "the replica serves another model than the others: it is not used",
                    replica=seat.id,
                    model=f"{card.name} {card.revision}",
                    others=f"{self.card.name} {self.card.revision}",
                )

    def _compare_dtypes(self, seat: Seat) -> None:
        """Tell of what is measured at each start, and came out otherwise: it makes records that nobody else can use."""
        if (
            not seat.is_refused
            and seat.card is not None
            and self.card is not None
            and seat.card.dtype != self.card.dtype
        ):
            log.warning(
                "replicas compute in different dtypes, and share no records: engine.dtype can name one for all",
                replica=seat.id,
                dtype=seat.card.dtype,
                others=self.card.dtype,
            )


def _is_same(card: ModelCard, other: ModelCard | None) -> bool:
    return other is not None and (card.name, card.revision) == (other.name, other.revision)
