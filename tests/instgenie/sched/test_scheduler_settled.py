"""Batches that come again without being decided anew: they are those that would be decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from instgenie.sched.limits import BatchLimits
from instgenie.sched.scheduler import Scheduler
from instgenie.sched.step_batch import Opened, StepBatch, StepResult
from instgenie.sched.task import Route
from instgenie.step_cache import extrapolated_steps, next_computed
from tests.instgenie.sched.tasks import a_lane, an_edit


class Deciding(Scheduler):
    """Decides each batch."""

    def _settled_batch(self, now: float) -> StepBatch | None:
        return None


class Counting(Scheduler):
    """Counts the batches that it did not decide."""

    settled = 0

    def _settled_batch(self, now: float) -> StepBatch | None:
        batch = super()._settled_batch(now)
        self.settled += batch is not None
        return batch


@dataclass
class Both:
    """Two schedulers that are told the same, as `BatchRunner` tells them."""

    limits: BatchLimits
    now: float = 0.0
    routes: dict[str, Route] = field(default_factory=dict)
    lanes: Counter[str] = field(default_factory=Counter)  # steps that were recorded, by template
    known: list[str] = field(default_factory=list)
    taken: Counter[str] = field(default_factory=Counter)  # steps, by edit
    extrapolated: dict[str, frozenset[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ours, self.deciding = Counting(self.limits), Deciding(self.limits)
        self.pair = (self.ours, self.deciding)

    def submit(
        self,
        *,
        steps: int,
        tokens: int,
        tenant: str,
        deadline: float | None,
        refresh: bool,
        route: Route,
        step_cache: int = 1,
    ) -> None:
        name = str(len(self.known))
        self.known.append(name)
        self.routes[name] = route
        refreshes = frozenset({steps // 2} if refresh else ())
        self.extrapolated[name] = extrapolated_steps(step_cache, steps, refreshes)
        task = an_edit(
            name,
            tenant=tenant,
            arrived=self.now,
            deadline=None if deadline is None else self.now + deadline,
            steps=steps,
            active_tokens=tokens,
            refresh_steps=refreshes,
            extrapolated_steps=self.extrapolated[name],
        )
        for scheduler in self.pair:
            scheduler.submit(task)

    def turn(self, seconds: float, *, goes_wrong: str = "") -> None:
        """One batch, and what comes of it."""
        batch, other = (scheduler.schedule(self.now) for scheduler in self.pair)
        assert batch == other
        self.now += seconds
        if batch.stage is not None and batch.stage.kind == "encode":
            self.open(batch.stage.edit)
        elif batch.has_step:
            edits = frozenset(batch.edits[:1])
            leaps = self.leaps(batch.edits[1:] if goes_wrong == "stuck" else batch.edits)
            result = StepResult(
                seconds=seconds,
                leaps=leaps,
                stuck=edits if goes_wrong == "stuck" else frozenset(),
                failed=edits if goes_wrong == "failed" else frozenset(),
                rerouted=dict.fromkeys(edits, "dense") if goes_wrong == "rerouted" else {},
            )
            for scheduler in self.pair:
                scheduler.update(result)
            for lane in batch.lanes:
                self.lanes[lane.template] += len(lane.steps)
                if self.lanes[lane.template] == 30:
                    for scheduler in self.pair:
                        scheduler.committed(lane.template)
        assert self.ours.counts() == self.deciding.counts()
        assert self.ours.next_deadline() == self.deciding.next_deadline()

    def leaps(self, edits: Sequence[str]) -> dict[str, int]:
        """Steps that these take with their next one, which is noted as taken."""
        leaps = {}
        for edit in edits:
            following = self.taken[edit] + 1
            self.taken[edit] = next_computed(following, self.extrapolated[edit])
            leaps[edit] = self.taken[edit] - following
        return leaps

    def happens(self, kind: str, value: Any, seconds: float) -> None:
        """Something that is told, to both."""
        if kind == "submit":
            self.submit(**value)
        elif kind == "wrong":
            self.turn(seconds, goes_wrong=value)
        elif kind != "warm":
            edit = self.known[value % len(self.known)]
            for scheduler in self.pair:
                {"cancel": scheduler.cancel, "preview": scheduler.want_preview, "drop": scheduler.drop}[kind](edit)
        elif f"w{value}" not in self.lanes:
            self.lanes[f"w{value}"] = 0
            for scheduler in self.pair:
                scheduler.submit_lane(a_lane(f"w{value}", steps=30))

    def open(self, edit: str) -> None:
        lane = a_lane(edit, steps=30) if self.routes[edit] == "lane" else None
        for scheduler in self.pair:
            scheduler.opened(Opened(edit, self.routes[edit], edit, lane=lane))


EDITS = st.fixed_dictionaries(
    {
        "steps": st.integers(1, 30),
        "tokens": st.integers(1, 40),
        "tenant": st.sampled_from("ab"),
        "deadline": st.none() | st.floats(1, 200),
        "refresh": st.integers(0, 3).map(lambda number: number == 0),
        "step_cache": st.sampled_from([1, 1, 2, 4]),
        "route": st.sampled_from(["records", "records", "records", "dense", "lane"]),
    }
)
# What happens, and the turns that go before it.
EVENTS = st.tuples(
    st.integers(0, 20),
    st.one_of(
        st.tuples(st.just("submit"), EDITS),
        st.tuples(st.just("wrong"), st.sampled_from(["stuck", "failed", "rerouted"])),
        st.tuples(st.sampled_from(["cancel", "preview", "drop"]), st.integers(0, 9)),
        st.tuples(st.just("warm"), st.integers(0, 2)),
    ),
)
LIMITS = st.builds(
    BatchLimits,
    edits=st.integers(1, 4),
    rows=st.sampled_from([30, 100, 1000]),
    encode_ahead=st.integers(1, 3),
    stage_share=st.sampled_from([0.1, 3.0]),
    joins=st.sampled_from(["step", "step", "empty"]),
)


@settings(max_examples=300, deadline=None)
@given(
    limits=LIMITS,
    first=st.lists(EDITS, min_size=1, max_size=4),
    events=st.lists(EVENTS, max_size=8),
    seconds=st.sampled_from([0.25, 1.0, 3.0]),
)
def test_batches_that_come_again_are_those_that_would_be_decided(
    limits: BatchLimits,
    first: list[dict[str, Any]],
    events: list[tuple[int, tuple[str, Any]]],
    seconds: float,
) -> None:
    both = Both(limits)
    for edit in first:
        both.submit(**edit)
    for turns, (kind, value) in events:
        for _ in range(turns):
            both.turn(seconds)
        both.happens(kind, value, seconds)
    for _ in range(30):
        both.turn(seconds)


def test_only_what_changes_is_decided() -> None:
    """An edit's 30 steps are decided when it comes, when another one has come beside it, and when that one is gone."""
    both = Both(BatchLimits())
    usual: dict[str, Any] = {"tokens": 2, "tenant": "a", "deadline": None, "refresh": False, "route": "records"}
    both.submit(steps=30, **usual)
    for _ in range(11):
        both.turn(1.0)
    assert both.ours.settled == 9
    both.submit(steps=5, **usual)
    for _ in range(6 + 16):
        both.turn(1.0)
    assert both.ours.counts().running == 0
    assert both.ours.settled == 9 + 4 + 14


def test_steps_before_a_refresh_are_decided_and_those_after_it_are_not() -> None:
    """Of 30 steps the 16th computes all tokens: it is decided, as those before it are, and the one that follows it."""
    both = Both(BatchLimits())
    both.submit(steps=30, tokens=2, tenant="a", deadline=None, refresh=True, route="records")
    both.turn(1.0)
    for taken in range(30):
        both.turn(1.0)
        assert both.ours.settled == max(0, taken - 16)
    assert both.ours.counts().finishing == 1


def test_a_finished_edit_is_not_left_waiting() -> None:
    """Two edits end with one step, and one of them is decoded before the next: the other has its turn after that."""
    both = Both(BatchLimits(stage_share=0.1))
    usual: dict[str, Any] = {"tokens": 2, "tenant": "a", "deadline": None, "refresh": False, "route": "records"}
    for steps in (5, 4, 12):
        both.submit(steps=steps, **usual)
    while both.ours.counts().finishing < 2:
        both.turn(1.0)
    for _ in range(4):
        both.turn(1.0)
    assert both.ours.counts().finishing == 0
