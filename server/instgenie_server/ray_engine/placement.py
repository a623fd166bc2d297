"""How many replicas a cluster gets, and what each of them takes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster.

    Attributes:
        id: of this run of it: one that comes back has another.
        host: where the others reach it.
        cpus, gpus: that it has for actors, whether they are taken or not.
    """

    id: str
    host: str
    cpus: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Placement:
    """What the cluster is asked for.

    Attributes:
        cpus, gpus: of each replica.
    """

    replicas: int
    cpus: int
    gpus: int

    def most_on(self, node: Node) -> int:
        """Replicas that may come to be on a machine at the same time."""
        room = node.cpus // self.cpus
        return min(self.replicas, room if self.gpus == 0 else min(room, node.gpus // self.gpus))


def place(nodes: Sequence[Node], replicas: int | None, cpus: int | None, gpus: int | None) -> Placement:
    """Fill in what is not asked for: one replica per GPU, or without GPUs per machine, and all cores shared out.

    Args:
        nodes: those that are there now.
        replicas: how many; cpus, gpus: of each. None is automatic.
    """
    if gpus is None:
        gpus = int(any(node.gpus for node in nodes))
    fitting = [node for node in nodes if node.cpus and node.gpus >= gpus] or list(nodes)
    if replicas is None:
        replicas = sum(node.gpus for node in fitting) if gpus else len(fitting)
    replicas = max(1, replicas)
    if cpus is None:
        on_each = -(-replicas // max(1, len(fitting)))  # at most
        shares = [node.cpus // max(1, node.gpus if gpus else on_each) for node in fitting]
        cpus = max(1, min(shares, default=1))
    return Placement(replicas, cpus, gpus)
