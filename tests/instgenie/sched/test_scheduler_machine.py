"""Any sequence of events: what holds for every batch, and that every edit comes to an end."""

from __future__ import annotations

from dataclasses import replace
from statistics import median_low
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from instgenie.sched.limits import BatchLimits
from instgenie.sched.scheduler import Scheduler
from instgenie.sched.step_batch import Opened, StageKind, StepBatch, StepResult
from instgenie.sched.task import EditTask, LaneTask, Route
from instgenie.step_cache import extrapolated_steps, next_computed
from tests.instgenie.sched.tasks import a_lane, an_edit

TENANTS = st.sampled_from(["ann", "bob", "cat"])
KEYS = st.sampled_from(["model", "model", "model", "other"])
TEMPLATES = st.sampled_from("tuv")
ROUTES = st.sampled_from(["records", "dense", "lane", "lane", "lane"])
LIMITS = st.builds(
    BatchLimits,
    edits=st.integers(1, 5),
    rows=st.sampled_from([15, 60, 250, 1000]),
    num_bytes=st.sampled_from([None, None, 30, 200]),
    encode_ahead=st.integers(1, 4),
    stage_share=st.sampled_from([0.1, 0.5, 3.0]),
    lane_every=st.integers(1, 4),
    joins=st.sampled_from(["step", "step", "empty"]),
)


class Rider:
    """What the machine knows of an edit."""

    def __init__(self, task: EditTask) -> None:
        self.task = task
        self.route: Route = "records"
        self.template = ""
        self.first_step = 0
        self.taken = 0
        self.is_cancelled = False
        self.holds_memory = False


class SchedulerMachine(RuleBasedStateMachine):
    """Plays a replica, and the front end, and whatever can go wrong."""

    @initialize(limits=LIMITS)
    def begin(self, limits: BatchLimits) -> None:
        self.limits = limits
        self.scheduler = Scheduler(limits)
        self.now = 0.0
        self.number = 0
        self.edits: dict[str, Rider] = {}  # that have not ended
        self.opening: list[str] = []
        self.decoding = ""
        self.lanes: dict[str, LaneTask] = {}  # that were given to the scheduler
        self.recorded: dict[str, int] = {}  # steps of each
        self.batch: StepBatch | None = None  # to be answered
        self.lanes_of_batch: dict[str, LaneTask] = {}
        self.ended: set[str] = set()
        self.step_seconds = 0.0
        self.items: list[float] = []  # what each took since the last step
        self.item: tuple[StageKind, float] | None = None  # that is being done, and since when
        self.item_seconds: dict[StageKind, list[float]] = {"encode": [], "preview": [], "decode": []}

    def end(self, edit_id: str) -> None:
        """An edit ends once: nothing is there to be ended twice."""
        assert edit_id not in self.ended
        self.ended.add(edit_id)
        del self.edits[edit_id]
        if edit_id in self.opening:
            self.opening.remove(edit_id)

    @rule(
        tenant=TENANTS,
        key=KEYS,
        priority=st.integers(-1, 1),
        seconds=st.none() | st.floats(0, 60),
        sizes=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 40), st.integers(0, 20)), min_size=1, max_size=4),
        step_cache=st.integers(1, 4),
    )
    def submit(
        self,
        tenant: str,
        key: str,
        priority: int,
        seconds: float | None,
        sizes: list[tuple[int, int, int]],
        step_cache: int,
    ) -> None:
        for steps, active, num_bytes in sizes:
            self.number += 1
            task = an_edit(
                str(self.number),
                tenant=tenant,
                batch_key=key,
                priority=priority,
                arrived=self.now,
                deadline=None if seconds is None else self.now + seconds,
                steps=steps,
                active_tokens=active,
                num_bytes=num_bytes,
                extrapolated_steps=extrapolated_steps(step_cache, steps),
            )
            self.scheduler.submit(task)
            self.edits[task.id] = Rider(task)

    @rule(template=TEMPLATES, tenant=TENANTS, key=KEYS, keeps=st.booleans(), steps=st.integers(1, 6))
    def warm(self, template: str, tenant: str, key: str, keeps: bool, steps: int) -> None:
        if template not in self.lanes:
            lane = a_lane(template, tenant=tenant, batch_key=key, keeps_steps=keeps, steps=steps, arrived=self.now)
            self.scheduler.submit_lane(lane)
            self.lanes[template] = lane
            self.recorded[template] = 0

    def open(
        self, edit_id: str, route: Route, template: str, flags: tuple[bool, bool], first_step: int, spare_steps: int = 0
    ) -> None:
        """An edit can run: that way, if its template's lane has what it needs, and else densely."""
        rider = self.edits[edit_id]
        task, lane = rider.task, self.lanes.get(template)
        needed = first_step + task.steps
        new = None
        if route == "lane" and lane is None:
            new = self.lanes[template] = a_lane(
                template,
                tenant=task.tenant,
                batch_key=task.batch_key,
                steps=needed + spare_steps,
                keeps_steps=flags[0],
                rides=flags[1],
            )
            self.recorded[template] = 0
        elif route == "lane" and lane is not None and (lane.batch_key != task.batch_key or needed > lane.steps):
            route = "dense"
        rider.route, rider.template, rider.first_step = route, template, first_step
        assert self.scheduler.opened(Opened(edit_id, route, template, first_step, new))
        self.opening.remove(edit_id)

    @rule(
        data=st.data(),
        turns=st.integers(1, 24),
        route=ROUTES,
        template=TEMPLATES,
        flags=st.tuples(st.booleans(), st.integers(0, 4).map(bool)),
        first_step=st.sampled_from([0, 0, 1, 2]),
        spare_steps=st.integers(0, 3),
    )
    def go_on(
        self,
        data: st.DataObject,
        turns: int,
        route: Route,
        template: str,
        flags: tuple[bool, bool],
        first_step: int,
        spare_steps: int,
    ) -> None:
        """Some turns of a replica for which all goes well but the last step, perhaps."""
        for _ in range(turns):
            if self.batch is not None:
                self.answer(StepResult(seconds=0.5))
            for edit_id in list(self.opening):
                self.open(edit_id, route, template, flags, first_step, spare_steps)
            self.schedule(0.5)
        if self.batch is not None and data.draw(st.booleans()):
            self.answer(self.a_mishap(self.batch, data))

    @rule(data=st.data(), kind=st.sampled_from(["cancel", "drop", "preview"]))
    def meddle(self, data: st.DataObject, kind: str) -> None:
        edit_id = data.draw(st.sampled_from([*sorted(self.edits), "unknown"]))
        if kind == "preview":
            self.scheduler.want_preview(edit_id)
        elif kind == "cancel":
            self.scheduler.cancel(edit_id)
            if edit_id in self.edits and edit_id != self.decoding:
                self.edits[edit_id].is_cancelled = True
        else:
            self.scheduler.drop(edit_id)
            if edit_id in self.edits:
                self.end(edit_id)

    @rule(template=TEMPLATES, kind=st.sampled_from(["cancel", "commit", "commit", "fail"]))
    def meddle_with_lane(self, template: str, kind: str) -> None:
        if kind == "cancel":
            self.cancel_lane(template)
        else:
            self.close_lane(template, kind == "commit")

    def cancel_lane(self, template: str) -> None:
        has_riders = any(
            rider.route == "lane" and rider.template == template and rider.taken < rider.task.steps
            for rider in self.edits.values()
        )
        assert self.scheduler.cancel_lane(template) == (not has_riders)
        if not has_riders:
            self.lanes.pop(template, None)

    def close_lane(self, template: str, is_fine: bool) -> None:
        lane = self.lanes.get(template)
        if lane is None or (is_fine and self.recorded[template] < lane.steps):
            return
        (self.scheduler.committed if is_fine else self.scheduler.lane_failed)(template)
        del self.lanes[template]
        self.reroute(template, "records" if is_fine else "dense")

    def reroute(self, template: str, route: Route) -> None:
        for rider in self.edits.values():
            if rider.route == "lane" and rider.template == template and rider.taken < rider.task.steps:
                rider.route = route

    @precondition(lambda self: self.batch is None)
    @rule(seconds=st.floats(0, 3))
    def schedule(self, seconds: float) -> None:
        self.now += seconds
        if self.item:
            kind, begun = self.item
            self.item_seconds[kind].append(self.now - begun)
            self.items.append(self.now - begun)
            self.item = None
        batch = self.scheduler.schedule(self.now)
        if self.decoding:
            if self.decoding in self.edits:
                self.end(self.decoding)
            self.decoding = ""
        if batch.has_step:
            self.batch = batch
            self.lanes_of_batch = {lane.template: self.lanes[lane.template] for lane in batch.lanes}
        self.check_ended(batch)
        self.check_stage(batch)
        self.check_step(batch)

    def check_ended(self, batch: StepBatch) -> None:
        cancelled = {edit_id for edit_id, rider in self.edits.items() if rider.is_cancelled}
        assert cancelled == {ended.edit for ended in batch.ended if ended.reason == "cancelled"}
        for ended in batch.ended:
            if ended.reason == "expired":
                assert self.edits[ended.edit].task.deadline is not None
            self.end(ended.edit)
        late = [rider.task.id for rider in self.edits.values() if (rider.task.deadline or self.now + 1) <= self.now]
        assert not late

    def check_stage(self, batch: StepBatch) -> None:
        if batch.stage is None:
            return
        assert not batch.has_step
        rider = self.edits[batch.stage.edit]
        if self.items and self.scheduler.counts().running:  # a step waits for it
            expected = median_low(self.item_seconds[batch.stage.kind][-8:])
            assert sum(self.items) + expected <= self.limits.stage_share * self.step_seconds + 1e-9
        self.item = batch.stage.kind, self.now
        if batch.stage.kind == "encode":
            assert not rider.holds_memory
            held = sum(other.task.num_bytes for other in self.edits.values() if other.holds_memory)
            assert self.limits.num_bytes is None or not held or held + rider.task.num_bytes <= self.limits.num_bytes
            rider.holds_memory = True
            self.opening.append(rider.task.id)
            assert len(self.opening) <= self.limits.encode_ahead
        elif batch.stage.kind == "decode":
            assert rider.taken == rider.task.steps
            self.decoding = rider.task.id
        else:
            assert rider.holds_memory
            assert rider.taken < rider.task.steps

    def check_step(self, batch: StepBatch) -> None:
        riders = [self.edits[edit_id] for edit_id in batch.edits]
        assert len(set(batch.edits)) == len(riders) <= self.limits.edits
        steps = {lane.template: lane.steps for lane in batch.lanes}
        rows = sum(rider.task.rows(rider.route) for rider in riders)
        rows += sum(self.lanes[template].rows * len(numbers) for template, numbers in steps.items())
        assert batch.rows == rows
        keys = {rider.task.batch_key for rider in riders} | {self.lanes[template].batch_key for template in steps}
        assert len(keys) <= 1
        for template, numbers in steps.items():  # each once, in order
            first = self.recorded[template]
            assert numbers == tuple(range(first, first + len(numbers)))
            assert numbers[-1] < self.lanes[template].steps
        for rider in riders:
            assert rider.task.id not in self.opening
            assert rider.taken < rider.task.steps
            if rider.route == "lane":
                lane, needed = self.lanes[rider.template], rider.first_step + rider.taken
                assert lane.rides
                is_made_now = needed in steps.get(rider.template, ())
                assert is_made_now or (lane.keeps_steps and needed < self.recorded[rider.template])
        if rows > self.limits.rows:  # what is larger than a batch goes alone
            if riders and not steps:
                assert len(riders) == 1
            else:
                assert [len(numbers) for numbers in steps.values()] == [1]
                assert len(riders) <= 1

    def answer(self, result: StepResult) -> None:
        batch, self.batch = self.batch, None
        assert batch is not None
        moved = [edit_id for edit_id in batch.edits if edit_id in self.edits and edit_id not in result.stuck]
        leaps = {edit_id: self.leap(self.edits[edit_id]) for edit_id in moved}
        self.scheduler.update(replace(result, leaps=leaps))
        self.items.clear()
        self.step_seconds = result.seconds
        for lane in batch.lanes:
            if self.lanes.get(lane.template) is self.lanes_of_batch[lane.template]:  # not another one by now
                self.recorded[lane.template] = lane.steps[-1] + 1
        for edit_id in result.failed & self.edits.keys():
            self.end(edit_id)
        for edit_id in batch.edits:
            if edit_id in self.edits and edit_id not in result.stuck:
                self.edits[edit_id].taken += 1 + leaps[edit_id]
        for edit_id, route in result.rerouted.items():
            rider = self.edits.get(edit_id)
            if rider is not None and rider.taken < rider.task.steps:
                rider.route = route
        for template in result.failed_lanes & self.lanes.keys():
            del self.lanes[template]
            self.reroute(template, "dense")

    def leap(self, rider: Rider) -> int:
        """Steps that an edit takes with its next one."""
        following = rider.taken + 1
        return next_computed(following, rider.task.extrapolated_steps) - following

    def a_mishap(self, batch: StepBatch, data: st.DataObject) -> StepResult:
        some: Any = st.sets(st.sampled_from(batch.edits)) if batch.edits else st.just(set())
        stuck, failed, dense = (frozenset(data.draw(some)) for _ in range(3))
        templates = [lane.template for lane in batch.lanes]
        lost = frozenset(data.draw(st.sets(st.sampled_from(templates)))) if templates else frozenset()
        return StepResult(1.0, stuck, dict.fromkeys(sorted(dense), "dense"), failed, lost)

    @invariant()
    def counts_are_right(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        counts = self.scheduler.counts()
        assert counts.opening == len(self.opening)
        assert counts.waiting == sum(not rider.holds_memory for rider in self.edits.values())
        assert counts.finishing == sum(rider.taken == rider.task.steps for rider in self.edits.values())
        total = counts.waiting + counts.opening + counts.ready + counts.running + counts.parked + counts.finishing
        assert total == len(self.edits)
        assert counts.running <= self.limits.edits
        assert counts.lanes + counts.waiting_lanes == len(self.lanes)
        deadlines = [rider.task.deadline for rider in self.edits.values() if rider.task.deadline is not None]
        latest = self.scheduler.next_deadline()
        assert (latest is None) == (not deadlines)
        assert latest is None or latest <= min(deadlines)

    def teardown(self) -> None:
        """From any state on, everything ends if nothing goes wrong any more."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(80 * (len(self.edits) + len(self.lanes)) + 80):
            if self.batch is not None:
                self.answer(StepResult(seconds=0.01))
            for edit_id in list(self.opening):
                self.open(edit_id, "records", "known", (True, True), 0)
            for template in list(self.lanes):
                self.close_lane(template, True)
            if not self.edits and not self.lanes:
                break
            self.schedule(0.001)
            self.counts_are_right()
        assert not self.edits
        assert not self.lanes


SchedulerMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestScheduler = SchedulerMachine.TestCase
