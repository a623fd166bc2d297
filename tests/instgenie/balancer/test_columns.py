"""Columns that follow what happens are those that would be made anew."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from instgenie.balancer.columns import Columns
from instgenie.balancer.fleet import Fleet
from tests.instgenie.balancer.fleets import COSTS, a_demand, fleet_of, idle

# What happens at a replica: an edit of so many steps is sent there, all that are there take one, the first one ends, or
# its steps take that many times as long.
EVENTS = st.tuples(
    st.integers(0, 1),
    st.one_of(
        st.tuples(st.just("accept"), st.integers(1, 6)),
        st.tuples(st.just("step"), st.just(1)),
        st.tuples(st.just("end"), st.just(1)),
        st.tuples(st.just("slower"), st.integers(1, 3)),
    ),
)


def made_anew(fleet: Fleet) -> Columns:
    views = list(fleet)
    columns = Columns.of(views)
    for row, view in enumerate(views):
        columns.write(row, view)
        columns.write_costs(row, view.costs)
    return columns


@given(st.lists(EVENTS, max_size=25))
def test_followed_columns_are_those_made_anew(events: list[tuple[int, tuple[str, int]]]) -> None:
    fleet = fleet_of(idle(2))
    taken: list[dict[str, int]] = [{}, {}]
    for number, (row, (kind, value)) in enumerate(events):
        replica, edits = f"r{row}", taken[row]
        if kind == "accept":
            fleet.accept(replica, a_demand(f"e{number}", steps=value))
            edits[f"e{number}"] = 0
        elif kind == "step":
            for edit in edits:
                fleet.step(replica, edit, edits[edit], float(number))
                edits[edit] += 1
        elif kind == "end" and edits:
            edit = next(iter(edits))
            del edits[edit]
            fleet.end(replica, edit, float(number))
        elif kind == "slower":
            fleet.learn_costs(replica, COSTS.slower(value), float(number))
        followed, anew = fleet.columns(), made_anew(fleet)
        for field in fields(Columns):
            assert np.array_equal(getattr(followed, field.name), getattr(anew, field.name)), field.name
