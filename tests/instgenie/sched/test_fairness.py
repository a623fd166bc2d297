"""Tenants share evenly."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from instgenie.sched.fairness import FairQueue


def filled(*items: tuple[str, str]) -> FairQueue:
    """A queue with items of a tenant each; each costs ten."""
    queue = FairQueue()
    for order, (item_id, tenant) in enumerate(items):
        queue.put(item_id, tenant, order, 10.0)
    return queue


def all_of(queue: FairQueue) -> list[str]:
    return [queue.take().id for _ in range(len(queue))]


def test_a_tenants_items_go_by_order_and_equal_ones_as_they_came() -> None:
    queue = FairQueue()
    for item_id, order in [("late", 9.0), ("first", 1.0), ("second", 1.0), ("urgent", -5.0)]:
        queue.put(item_id, "ann", order, 10.0)
    assert all_of(queue) == ["urgent", "first", "second", "late"]
    assert queue.first() is None


def test_tenants_alternate_from_the_first_on() -> None:
    assert all_of(filled(("a", "ann"), ("b", "ann"), ("c", "ann"), ("x", "bob"), ("y", "bob"))) == list("axbyc")


def test_who_asks_for_more_gets_it_less_often() -> None:
    queue = FairQueue()
    for number in range(4):
        queue.put(f"large {number}", "ann", number, 30.0)
        queue.put(f"small {number}", "bob", number, 10.0)
    assert Counter(name.split()[0] for name in all_of(queue)[:5]) == {"small": 3, "large": 2}


def test_a_tenant_that_comes_later_has_no_credit_for_the_past() -> None:
    queue = filled(*((f"a{number}", "ann") for number in range(10)))
    assert [queue.take().id for _ in range(5)] == ["a0", "a1", "a2", "a3", "a4"]
    for number in range(5):
        queue.put(f"b{number}", "bob", number, 10.0)
    assert Counter(queue.take().id[0] for _ in range(4)) == {"a": 2, "b": 2}


def test_leaving_and_coming_back_does_not_clear_a_debt() -> None:
    queue = filled(("x", "eve"), ("a", "ann"), ("b", "ann"))
    assert [queue.take().id, queue.take().id] == ["x", "a"]
    queue.put("c", "cat", 0, 10.0)  # the clock stands: cat has had nothing yet
    queue.put("y", "eve", 0, 10.0)
    assert queue.take().id == "c"


def test_all_are_even_when_nothing_waited_any_more() -> None:
    queue = filled(("a", "ann"))
    for _ in range(9):
        queue.take()
        queue.put("a", "ann", 0, 1000.0)
    queue.put("x", "bob", 0, 10.0)
    queue.put("b", "ann", 1, 10.0)
    assert all_of(queue) == ["a", "x", "b"]


def test_what_was_not_used_is_given_back_and_what_cost_more_is_charged() -> None:
    queue = filled(("a", "ann"), ("b", "ann"), ("x", "bob"), ("y", "bob"))
    assert queue.take().id == "a"
    queue.charge("ann", -9.0)
    assert [queue.take().id, queue.take().id] == ["x", "b"]  # ann is at 1, bob at 10
    queue.put("c", "ann", 3, 10.0)
    queue.charge("ann", 100.0)
    assert all_of(queue) == ["y", "c"]


def test_what_was_removed_does_not_come_even_where_its_id_is_used_again() -> None:
    queue = filled(("a", "ann"), ("b", "ann"))
    queue.remove("a")
    queue.remove("unknown")
    queue.put("a", "ann", 9, 10.0)
    assert "a" in queue
    assert all_of(queue) == ["b", "a"]


def test_an_earlier_turn_is_a_smaller_number() -> None:
    queue = filled(("a", "ann"), ("b", "ann"), ("x", "bob"), ("y", "bob"))
    turns = [queue.take().at for _ in range(4)]
    assert turns == sorted(turns) == [0.0, 0.0, 10.0, 10.0]


OTHERS = ["ann", "bob", "cat"]
LEAST = 5  # of each item that stays charged
MOVES = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "take", "leave", "give back"]),
        st.sampled_from([*OTHERS, "dan"]),
        st.floats(-1e3, 1e3),
        st.integers(LEAST, 20),
    ),
    max_size=80,
)


class Crowd:
    """Tenants that do what they like with a queue."""

    def __init__(self) -> None:
        self.queue = FairQueue()
        self.costs: dict[str, tuple[str, int]] = {}  # of all that was put, with its tenant
        self.unused: dict[str, int] = {}  # what a tenant may give back

    def put(self, tenant: str, order: float, cost: int) -> str:
        item_id = f"{tenant} {len(self.costs)}"
        self.costs[item_id] = (tenant, cost)
        self.queue.put(item_id, tenant, order, cost)
        return item_id

    def take(self) -> str:
        item_id = self.queue.take().id
        tenant, cost = self.costs[item_id]
        self.unused[tenant] = self.unused.get(tenant, 0) + cost - LEAST
        return item_id

    def play(self, kind: str, tenant: str, order: float, cost: int) -> str | None:
        """A move; what was taken by it."""
        if kind == "put":
            self.put(tenant, order, cost)
        elif kind == "take" and self.queue:
            return self.take()
        elif kind == "leave":
            (*_, last) = ["nobody", *(item for item in self.costs if item.startswith(tenant) and item in self.queue)]
            self.queue.remove(last)
        elif kind == "give back":
            self.queue.charge(tenant, -self.unused.pop(tenant, 0))
        return None


@given(before=MOVES, others=MOVES, is_new=st.booleans())
def test_whatever_others_put_in_they_overtake_an_item_so_often_at_most(
    before: list[tuple[str, str, float, int]], others: list[tuple[str, str, float, int]], is_new: bool
) -> None:
    """The bound that FairQueue states: of a debt of 20 at most, the cost of a last item; of none for a new tenant."""
    crowd = Crowd()
    for kind, tenant, order, cost in before:
        if not (is_new and tenant == "dan"):
            crowd.play(kind, tenant, order, cost)
    mine = crowd.put("dan", -1e9, 10)
    overtaken: Counter[str] = Counter()
    for kind, tenant, order, cost in [*others, *[("take", "", 0.0, 0)] * 200]:
        for other in OTHERS:  # who never run out
            crowd.put(other, -1e9, LEAST)
        taken = crowd.play(kind, tenant, order, cost) if tenant != "dan" else None
        if taken == mine:
            break
        if taken is not None:
            overtaken[crowd.costs[taken][0]] += 1
    else:
        raise AssertionError("it was never its turn")
    assert all(count <= (1 if is_new else 1 + 20 / LEAST) for count in overtaken.values())
    assert not overtaken["dan"]
