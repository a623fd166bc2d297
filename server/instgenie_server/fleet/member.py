"""One replica of a fleet, whatever starts it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from instgenie_server.operator_error import OperatorError
from instgenie_server.replica_process.supervised_replica import SupervisedReplica

HERE = "here"  # this machine

Renew = Callable[[], Awaitable[None]]


class ReplicaStartError(OperatorError):
    """No replica of the server's own became ready; the message is the last that the first one said."""


@dataclass(slots=True, eq=False)
class Member:
    """One replica.

    Attributes:
        id: the same for all processes that take its place one after the other; in logs and metrics.
        machine: replicas of one machine share the tiers below the device. It may be another one for each process, and
            is set before that is connected to.
        replica: the connection to it; whoever made the member starts and closes it.
        renew: has it finish what it has, ends it, and returns when another process is ready in its place; None where it
            is not ours to end. Raises `RenewError` where no other process becomes ready.
    """

    id: str
    machine: str
    replica: SupervisedReplica
    renew: Renew | None = None


Expect = Callable[[Sequence[Member]], None]  # is told of all members before any is ready
