"""All replicas as a front end knows them, and where templates are. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from instgenie.balancer.columns import Columns
from instgenie.balancer.edit_demand import EditDemand
from instgenie.balancer.replica_view import ReplicaProfile, ReplicaState, ReplicaView
from instgenie.balancer.step_costs import StepCosts
from instgenie.balancer.template_map import WARMTH, TemplateMap, Warmth
from instgenie.orders import PhaseTimings, ReplicaStats, ServingTier


class Fleet:
    """Replicas by id. Events say what happens to them; what is told of replicas that are not known is ignored.

    Times are seconds on the caller's clock. Where none is told, it is that of the newest event. An edit ends once: the
    caller tells of warmth before that.
    """

    def __init__(self, max_templates: int = 100_000) -> None:
        self._templates = TemplateMap(max_templates)
        self._views: dict[str, ReplicaView] = {}
        self._rows: dict[str, int] = {}
        self._rows_of_machine: dict[str, NDArray[np.int64]] = {}
        self._columns: Columns | None = None  # None: replicas came or went
        self._changed: set[str] = set()  # whose columns are old
        self._now = 0.0

    def __len__(self) -> int:
        """Replicas, whatever their state."""
        return len(self._views)

    def __iter__(self) -> Iterator[ReplicaView]:
        """All of them, to look at: changes are told to the fleet."""
        return iter(self._views.values())

    def __getitem__(self, replica: str) -> ReplicaView:
        """One of them, to look at.

        Raises:
            KeyError: it is not known.
        """
        return self._views[replica]

    # Replicas.

    def join(self, profile: ReplicaProfile, costs: StepCosts, now: float, state: ReplicaState = "starting") -> None:
        """A replica, or a new process in its place: nothing is on its device."""
        if profile.id in self._views:
            self.leave(profile.id)
        self._tick(now)
        self._views[profile.id] = ReplicaView(profile, costs, now, state)
        self._columns = None

    def leave(self, replica: str) -> None:
        """It is no longer one of the fleet."""
        self.set_state(replica, "gone")
        if self._views.pop(replica, None) is not None:
            self._columns = None

    def set_state(self, replica: str, state: ReplicaState, now: float | None = None) -> None:
        """Tell its state. One that is gone has no edits any more, and nothing on its device.

        Args:
            now: when it said so; None where it was not itself who did.
        """
        view = self._views.get(replica)
        if view is None:
            return
        view.state = state
        self._tick(now)
        if now is not None:
            view.heard_at = max(view.heard_at, now)
        if state == "gone":
            for demand in view.demands():
                self._templates.recorded(demand.template, demand.id, view.profile.machine)
            self._templates.forget_device(replica)
            view.empty()
        self._changed.add(replica)

    def learn_costs(self, replica: str, costs: StepCosts, now: float) -> None:
        """What its steps take now."""
        view = self._views.get(replica)
        if view is not None:
            self._tick(now)
            view.learn_costs(costs, now)
            self._changed.add(replica)
            if self._columns is not None:
                self._columns.write_costs(self._rows[replica], costs)

    def hear(self, replica: str, stats: ReplicaStats, now: float) -> None:
        """What it says that it has."""
        view = self._views.get(replica)
        if view is not None:
            self._tick(now)
            for demand in view.hear(stats, now):
                self._templates.recorded(demand.template, demand.id, view.profile.machine)
            self._changed.add(replica)

    # Edits.

    def accept(self, replica: str, demand: EditDemand) -> None:
        """An edit was sent to it.

        Raises:
            ValueError: it is there already.
        """
        view = self._views.get(replica)
        if view is None:
            return
        machine = view.profile.machine
        warmth = Warmth.DENSE
        if demand.cache != "off":
            warmth = self._templates.at(demand.template, replica, machine, self._now)
        view.accept(demand, warmth)
        if warmth == Warmth.COLD:
            self._templates.records(demand.template, demand.id, replica, machine)
        self._changed.add(replica)

    def step(self, replica: str, edit_id: str, step: int, now: float) -> None:
        """An edit has taken so many steps there; 0 just before its first one."""
        view = self._views.get(replica)
        if view is not None:
            self._tick(now)
            view.step(edit_id, step, now)
            self._changed.add(replica)

    def end(self, replica: str, edit_id: str, now: float) -> None:
        """An edit is over there, however it ended."""
        view = self._views.get(replica)
        if view is None:
            return
        self._tick(now)
        demand = view.end(edit_id, now)
        if demand is not None:
            self._templates.recorded(demand.template, edit_id, view.profile.machine)
        self._changed.add(replica)

    # Templates.

    def learn(self, replica: str, edit_id: str, demand: EditDemand, timings: PhaseTimings, now: float) -> None:
        """An edit was successful there, and says where its template's records were. `end` is to follow.

        What it found when it began is not only believed: what was believed to be nearer, and told before that, was
        wrong. Records on a disk or farther away come by the host tier, and are there now; so are those of a template
        that the edit recorded itself. Records that were refused, or lost on the way, are nowhere.
        """
        view = self._views.get(replica)
        if view is None or timings.cache == "off":
            return
        self._tick(now)
        machine, began = view.profile.machine, view.began(edit_id)
        found = None if timings.cache != "hit" or timings.tier is None else WARMTH[timings.tier]
        if timings.cache != "hit" or found is not None:
            for tier in WARMTH.values():
                if found is None or tier < found:
                    self._templates.evicted(demand.template, tier, replica, machine, now if began is None else began)
        if found is not None:
            self._templates.warmed(demand.template, found, replica, machine, now)
        if timings.cache == "cold" or (found is not None and found > Warmth.HOST):
            self._templates.warmed(demand.template, Warmth.HOST, replica, machine, now)

    def warmed(self, replica: str, template: str, tier: ServingTier, now: float | None = None) -> None:
        """Its records are in this tier: of the replica's device, or of its machine."""
        view = self._views.get(replica)
        if view is not None:
            self._tick(now)
            self._templates.warmed(template, WARMTH[tier], replica, view.profile.machine, self._now)

    def evicted(self, replica: str, template: str, tier: ServingTier) -> None:
        """Its records are in this tier no more: of the replica's device, or of its machine."""
        view = self._views.get(replica)
        if view is not None:
            self._templates.evicted(template, WARMTH[tier], replica, view.profile.machine)

    def lose_machine(self, machine: str) -> None:
        """A machine is gone with its replicas and all that they shared."""
        for view in list(self._views.values()):
            if view.profile.machine == machine:
                self.set_state(view.profile.id, "gone")
        self._templates.forget_machine(machine)

    # What decisions are made by.

    def warmths(self, demand: EditDemand) -> NDArray[np.int8]:
        """[R] how the edit's template is served by each, as `Warmth`."""
        columns = self.columns()
        if demand.cache == "off":
            return np.full(len(columns.ids), Warmth.DENSE, np.int8)
        warmths = np.full(len(columns.ids), Warmth.COLD, np.int8)
        for machine, warmth in self._templates.on_machines(demand.template):
            rows = self._rows_of_machine.get(machine)
            if rows is not None:
                warmths[rows] = warmth
        for replica, warmth in self._templates.on_replicas(demand.template, self._now):
            row = self._rows.get(replica)
            if row is not None:
                warmths[row] = warmth
        return warmths

    def columns(self) -> Columns:
        """Their numbers as of the last event. They change with the next one."""
        if self._columns is None:
            views = list(self._views.values())
            self._columns = Columns.of(views)
            self._rows = {view.profile.id: row for row, view in enumerate(views)}
            of_machine: dict[str, list[int]] = {}
            for row, view in enumerate(views):
                of_machine.setdefault(view.profile.machine, []).append(row)
                self._columns.write_costs(row, view.costs)
            self._rows_of_machine = {machine: np.array(rows) for machine, rows in of_machine.items()}
            self._changed = set(self._views)
        for replica in self._changed:
            if replica in self._views:
                self._columns.write(self._rows[replica], self._views[replica])
        self._changed.clear()
        return self._columns

    def _tick(self, now: float | None) -> None:
        if now is not None and now > self._now:
            self._now = now
