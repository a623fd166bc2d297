from __future__ import annotations

import pytest

from instgenie_server.ray_engine.placement import Node, Placement, place

HEAD = Node("head", "10.0.0.1", cpus=0, gpus=0)
SMALL = Node("small", "10.0.0.2", cpus=4, gpus=0)
LARGE = Node("large", "10.0.0.3", cpus=17, gpus=0)
GPUS = Node("gpus", "10.0.0.4", cpus=34, gpus=4)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([HEAD, SMALL], Placement(replicas=1, cpus=4, gpus=0)),
        ([HEAD, SMALL, LARGE], Placement(replicas=2, cpus=4, gpus=0)),  # the same for all, so the smallest decides
        ([HEAD, SMALL, GPUS], Placement(replicas=4, cpus=8, gpus=1)),  # those without are left out
        ([HEAD], Placement(replicas=1, cpus=1, gpus=0)),  # others may come
        ([], Placement(replicas=1, cpus=1, gpus=0)),
    ],
)
def test_what_is_not_said_suits_the_cluster(nodes: list[Node], expected: Placement) -> None:
    assert place(nodes, replicas=None, cpus=None, gpus=None) == expected


@pytest.mark.parametrize(("replicas", "cpus"), [(2, 4), (3, 2), (8, 1), (64, 1)])
def test_cores_are_shared_out_among_the_replicas_of_a_machine(replicas: int, cpus: int) -> None:
    assert place([SMALL, SMALL], replicas=replicas, cpus=None, gpus=None) == Placement(replicas, cpus, gpus=0)


def test_what_is_said_holds() -> None:
    assert place([GPUS], replicas=2, cpus=3, gpus=0) == Placement(replicas=2, cpus=3, gpus=0)
    assert place([SMALL], replicas=None, cpus=None, gpus=1) == Placement(replicas=1, cpus=4, gpus=1)  # one may come


@pytest.mark.parametrize(
    ("placement", "node", "most"),
    [
        (Placement(8, cpus=1, gpus=0), SMALL, 4),
        (Placement(3, cpus=1, gpus=0), SMALL, 3),
        (Placement(8, cpus=5, gpus=0), SMALL, 0),
        (Placement(8, cpus=1, gpus=1), GPUS, 4),
        (Placement(8, cpus=17, gpus=1), GPUS, 2),
        (Placement(8, cpus=1, gpus=1), SMALL, 0),
    ],
)
def test_a_machine_has_room_for_so_many(placement: Placement, node: Node, most: int) -> None:
    assert placement.most_on(node) == most
