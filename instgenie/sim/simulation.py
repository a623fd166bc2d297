"""A fleet under a trace, event by event, on a clock of its own. See README.md."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from instgenie.balancer.fleet import Fleet
from instgenie.balancer.policies import Balancer
from instgenie.balancer.replica_view import ReplicaProfile
from instgenie.orders import PhaseTimings, ReplicaStats, ServingTier
from instgenie.sim.fleet_shape import FleetShape
from instgenie.sim.machine import Machine, TemplateRecords
from instgenie.sim.pace import STEADY, Pace
from instgenie.sim.sim_edit import Served, SimEdit, make_edit
from instgenie.sim.sim_model import SimModel
from instgenie.sim.sim_replica import SimReplica
from instgenie.sim.template_cache import TemplateCache
from instgenie.sim.trace import SimRequest

HEARTBEAT_SECONDS = 5.0

_Shared = Literal["disk", "host"]
_FILLED: tuple[_Shared, ...] = ("disk", "host")

_Kind = Literal["turn", "submit", "done", "heartbeat"]


def _timings(cache: Literal["hit", "cold", "refused", "off"], tier: ServingTier | None = None) -> PhaseTimings:
    """What the balancer is told by an edit's timings: how it was served. The rest says nothing to it."""
    return PhaseTimings(0, 0, 0, 0, 0, cache=cache, steps=0, dense_steps=0, tokens_active=0, tokens_total=0, tier=tier)


_TIMINGS: dict[Served, PhaseTimings] = {
    "device": _timings("hit", "device"),
    "host": _timings("hit", "host"),
    "disk": _timings("hit", "disk"),
    "recorded": _timings("cold"),
    "joined": _timings("cold"),
    "dense": _timings("refused"),
    "full_mask": _timings("off"),
}


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a trace.

    Attributes:
        edits: in the order in which they came; all are done.
        busy_seconds: of each replica's device.
        mean_batch: edits in a step, over all replicas.
        ended: when the last edit was done.
    """

    edits: Sequence[SimEdit]
    busy_seconds: Sequence[float]
    mean_batch: float
    ended: float


class Simulation:
    """Replicas that a balancer sends edits to, as a front end would: it knows what such a one is told, and no more."""

    def __init__(
        self,
        model: SimModel,
        shape: FleetShape,
        balancer: Balancer,
        largest_steps: int,
        paces: Sequence[Pace] = (),
    ) -> None:
        """Caches are empty, and all replicas ready.

        Args:
            largest_steps: of a template, by which budgets count.
            paces: of the first replicas; all others are steady.
        """
        self._model, self._balancer = model, balancer
        self._fleet = Fleet()
        self._replicas: dict[str, SimReplica] = {}
        self._events: list[tuple[float, int, _Kind, SimReplica, SimEdit | None]] = []
        self._numbers = itertools.count()
        self._finishing: dict[str, int] = {}  # edits whose files are made, by replica
        self._open = 0  # edits that are not done
        template_bytes = largest_steps * model.step_bytes

        def tier(templates: int) -> TemplateCache:
            return TemplateCache(templates * template_bytes, shape.eviction)

        machine: Machine | None = None
        for number in range(shape.replicas):
            if machine is None or number % shape.replicas_per_machine == 0:
                name = f"m{number // shape.replicas_per_machine}"
                machine = Machine(name, tier(shape.host_templates), tier(shape.disk_templates), model.disk_byte_seconds)
            pace = paces[number] if number < len(paces) else STEADY
            replica = SimReplica(f"r{number}", model, machine, tier(shape.device_templates), pace)
            self._replicas[replica.name] = replica
            self._finishing[replica.name] = 0
            profile = ReplicaProfile(id=replica.name, machine=machine.name, limits=model.limits)
            self._fleet.join(profile, model.costs, 0.0, "ready")
            self._push((number + 1) / shape.replicas * HEARTBEAT_SECONDS, "heartbeat", replica)

    @property
    def replicas(self) -> Iterable[SimReplica]:
        """All of them."""
        return self._replicas.values()

    def fill(self, requests: Sequence[SimRequest]) -> None:
        """Let disks and memory hold what a service that has run for long may have there, before anything is played.

        Of each of both, templates go to the machines in turn, those first that are asked for most; once all were dealt,
        or no machine has room, what room is left is for the most popular ones, on every machine. What the policy would
        have there comes of it in time.
        """
        replicas = {replica.machine.name: replica for replica in self._replicas.values()}
        uses = Counter((request.template, request.steps) for request in requests)
        examples = {(request.template, request.steps): request for request in requests}
        ranked = [make_edit("", examples[key], self._model).template for key, _ in uses.most_common()]
        for tier in _FILLED:
            for template, replica in zip(ranked, itertools.cycle(replicas.values()), strict=False):
                self._put(template, replica, tier)
            for replica in replicas.values():
                for template in ranked:
                    if not self._put(template, replica, tier):
                        break

    def _put(self, template: TemplateRecords, replica: SimReplica, tier: _Shared) -> bool:
        """Have a machine hold a template, if there is room without evicting another one."""
        held = replica.machine.host if tier == "host" else replica.machine.disk
        if template.name not in held:
            if held.used_bytes + template.num_bytes > held.budget_bytes:
                return False
            held.insert(template.name, template.num_bytes, template.cost_ms)
            self._fleet.warmed(replica.name, template.name, tier, 0.0)
        return True

    def play(self, requests: Iterable[SimRequest]) -> Played:
        """Serve requests, which come in the order of their times, to the last one. To be called once."""
        edits: list[SimEdit] = []
        for request in requests:
            self._run_until(request.seconds)
            edit = make_edit(f"e{len(edits)}", request, self._model)
            edits.append(edit)
            self._send(edit, request.seconds)
        ended = self._run_until(None)
        steps = sum(replica.steps for replica in self._replicas.values())
        edit_steps = sum(replica.edit_steps for replica in self._replicas.values())
        busy = [replica.busy_seconds for replica in self._replicas.values()]
        return Played(edits, busy, edit_steps / max(1, steps), ended)

    def _send(self, edit: SimEdit, now: float) -> None:
        chosen = self._balancer.choose(edit.demand, self._fleet, now)
        assert chosen is not None, "all replicas are ready, and heard of"
        edit.replica = chosen
        self._fleet.accept(chosen, edit.demand)
        self._open += 1
        self._push(now + self._model.beside_seconds[0], "submit", self._replicas[chosen], edit)

    def _run_until(self, until: float | None) -> float:
        """What happens before then; None: until all edits are done. The time of the last event."""
        events, now = self._events, 0.0
        while events and (self._open if until is None else events[0][0] <= until):
            now, _, kind, replica, edit = heapq.heappop(events)
            if kind == "turn":
                self._end_turn(replica, now)
            elif kind == "heartbeat":
                self._fleet.hear(replica.name, self._stats(replica), now)
                self._tell_costs(replica, now)
                self._push(now + HEARTBEAT_SECONDS, "heartbeat", replica)
            elif edit is not None and kind == "submit":
                replica.submit(edit, now)
                if replica.is_idle:
                    self._begin_turn(replica, now)
            elif edit is not None:
                self._finish(replica, edit, now)
        return now

    def _begin_turn(self, replica: SimReplica, now: float) -> None:
        seconds = replica.begin(now)
        if seconds is not None:
            self._push(now + seconds, "turn", replica)

    def _end_turn(self, replica: SimReplica, now: float) -> None:
        turn = replica.end(now)
        for edit in turn.reported:
            self._fleet.step(replica.name, edit.id, edit.taken, now)
        if turn.decoded is not None:
            self._finishing[replica.name] += 1
            self._push(now + self._model.beside_seconds[1], "done", replica, turn.decoded)
        self._begin_turn(replica, now)

    def _finish(self, replica: SimReplica, edit: SimEdit, now: float) -> None:
        """Its file is with the front end."""
        self._finishing[replica.name] -= 1
        self._open -= 1
        edit.done = now
        assert edit.served is not None
        self._fleet.learn(replica.name, edit.id, edit.demand, _TIMINGS[edit.served], now)
        self._fleet.end(replica.name, edit.id, now)
        self._tell_costs(replica, now)

    def _tell_costs(self, replica: SimReplica, now: float) -> None:
        """What the replica's steps take just now."""
        if not replica.pace.is_steady:
            self._fleet.learn_costs(replica.name, self._model.costs.slower(replica.pace.at(now)), now)

    def _stats(self, replica: SimReplica) -> ReplicaStats:
        counts = replica.counts()
        return ReplicaStats(
            waiting=counts.waiting + counts.opening + counts.ready,
            running=counts.running + counts.parked,
            finishing=counts.finishing + self._finishing[replica.name],
            tokens=replica.tokens,
            steps=replica.steps,
            edit_steps=replica.edit_steps,
        )

    def _push(self, at: float, kind: _Kind, replica: SimReplica, edit: SimEdit | None = None) -> None:
        heapq.heappush(self._events, (at, next(self._numbers), kind, replica, edit))
