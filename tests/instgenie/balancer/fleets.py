"""Fleets to decide about: made by hand, and drawn ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from instgenie.balancer.edit_demand import EditDemand
from instgenie.balancer.fleet import Fleet
from instgenie.balancer.replica_view import ReplicaProfile, ReplicaState
from instgenie.balancer.step_costs import LoadSeconds, StepCosts, TokenSeconds
from instgenie.orders import ServingTier
from instgenie.sched.limits import BatchLimits

A_SECOND = TokenSeconds(1.0)
# A second a step, and one a token; records of one byte take 0, 8 and 80 seconds.
COSTS = StepCosts(
    1.0,
    A_SECOND,
    A_SECOND,
    {"host": LoadSeconds(0.0, 0.0), "disk": LoadSeconds(0.0, 8.0), "object": LoadSeconds(0.0, 80.0)},
)


def a_demand(edit_id: str = "new", **changes: Any) -> EditDemand:
    """Four steps of one token; of ten where all are computed."""
    demand: dict[str, Any] = {
        "template": "t",
        "steps": 4,
        "passes": 1,
        "text_tokens": 0,
        "active_tokens": 1,
        "total_tokens": 10,
        "step_bytes": 1,
    }
    return EditDemand(id=edit_id, **{**demand, **changes})


@dataclass(frozen=True)
class Placed:
    """An edit somewhere; `taken` None: it waits."""

    demand: EditDemand
    taken: int | None = None


@dataclass(frozen=True)
class Spec:
    """A replica to make."""

    id: str
    machine: str
    state: ReplicaState = "ready"
    edits: tuple[Placed, ...] = ()
    warm: tuple[tuple[str, ServingTier], ...] = ()
    limits: BatchLimits = BatchLimits(edits=3, rows=30)  # noqa: RUF009 - frozen
    costs: StepCosts = COSTS
    heard_at: float = 0.0


def fleet_of(specs: Sequence[Spec]) -> Fleet:
    fleet = Fleet()
    for spec in specs:
        profile = ReplicaProfile(id=spec.id, machine=spec.machine, limits=spec.limits)
        fleet.join(profile, spec.costs, spec.heard_at, spec.state)
    for spec in sorted(specs, key=lambda spec: spec.id):
        for template, tier in spec.warm:
            fleet.warmed(spec.id, template, tier)
    for spec in sorted(specs, key=lambda spec: spec.id):
        for placed in spec.edits:
            fleet.accept(spec.id, placed.demand)
            if placed.taken is not None:
                fleet.step(spec.id, placed.demand.id, placed.taken, spec.heard_at)
    return fleet


def idle(count: int, **changes: Any) -> list[Spec]:
    """Replicas without edits, each on a machine of its own."""
    return [Spec(f"r{number}", f"m{number}", **changes) for number in range(count)]


TEMPLATES = ("t", "u", "v")
TIERS: tuple[ServingTier, ...] = ("device", "host", "disk", "object")


@st.composite
def demands(draw: st.DrawFn, /, edit_id: str, **changes: Any) -> EditDemand:
    total = draw(st.integers(1, 12))
    demand = EditDemand(
        id=edit_id,
        template=draw(st.sampled_from(TEMPLATES)),
        steps=draw(st.integers(1, 6)),
        passes=draw(st.integers(1, 2)),
        text_tokens=draw(st.integers(0, 3)),
        active_tokens=draw(st.integers(0, total)),
        total_tokens=total,
        step_bytes=draw(st.integers(0, 3)),
        cache=draw(st.sampled_from(["auto", "auto", "auto", "off", "only"])),
    )
    return replace(demand, **changes)


@st.composite
def placed_edits(draw: st.DrawFn, replica: str, max_size: int = 6) -> tuple[Placed, ...]:
    edits = []
    for number in range(draw(st.integers(0, max_size))):
        demand = draw(demands(f"{replica}-{number}"))
        edits.append(Placed(demand, draw(st.none() | st.integers(0, demand.steps))))
    return tuple(edits)


tokens = st.builds(
    TokenSeconds, st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.01]), st.sampled_from([0.0, 0.1])
)
loads = st.builds(LoadSeconds, st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0, 30.0]))


@st.composite
def rising_loads(draw: st.DrawFn) -> dict[str, LoadSeconds]:
    """From a tier below, a load takes no less."""
    step, byte, result = 0.0, 0.0, {}
    for tier in ("host", "disk", "object"):
        more = draw(loads)
        step, byte = step + more.step, byte + more.byte
        result[tier] = LoadSeconds(step, byte)
    return result


all_costs = st.builds(
    StepCosts, st.sampled_from([0.1, 1.0]), tokens, tokens, rising_loads(), st.sampled_from([0.0, 2.0])
)


@st.composite
def specs(draw: st.DrawFn, min_size: int = 1, max_size: int = 5) -> list[Spec]:
    """Replicas of some machines, in any state, some of which were not heard of for long."""
    made = []
    for number in range(draw(st.integers(min_size, max_size))):
        replica = f"r{number}"
        made.append(
            Spec(
                id=replica,
                machine=draw(st.sampled_from(["m0", "m1", "m2"])),
                state=draw(st.sampled_from(["ready", "ready", "ready", "starting", "draining"])),
                edits=draw(placed_edits(replica)),
                warm=tuple(draw(st.lists(st.tuples(st.sampled_from(TEMPLATES), st.sampled_from(TIERS)), max_size=3))),
                limits=BatchLimits(edits=draw(st.integers(1, 4)), rows=draw(st.integers(1, 60))),
                costs=draw(all_costs),
                heard_at=draw(st.sampled_from([100.0, 100.0, 85.0, 50.0])),
            )
        )
    return made


NOW = 100.0
