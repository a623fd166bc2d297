"""The Ray cluster that the replicas run on: joined, or started for as long as the server runs."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import ray
import structlog
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from instgenie_cache.errors import ServiceError
from instgenie_cache.wire.address import Address, connect
from instgenie_server.operator_error import OperatorError
from instgenie_server.ray_engine.meant_cluster import meant_cluster
from instgenie_server.ray_engine.placement import Node

# Actors and the server pass each other no more than settings and log lines; Ray would take a third of the memory.
OBJECT_STORE_BYTES = 80_000_000
ANSWER_SECONDS = 10.0

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class RayEngineError(OperatorError):
    """There is no cluster, or it cannot run replicas."""


@asynccontextmanager
async def open_cluster(address: str | None) -> AsyncIterator[bool]:
    """Join the cluster at an address; it is left at the end. Whether it was started for that.

    Args:
        address: host and port; None is the cluster that runs on this machine, or else one that is started here and
            ended at the end; see `keep_to_loopback`.
    Raises:
        RayEngineError: there is none at the address, this machine is not part of it, or none can be started.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    _tame_logs()
    await _check_answers(address)
    try:
        # In a thread, since it takes seconds; one that lives on, since Ray's processes end with it.
        is_own = await asyncio.to_thread(_join, address)
        _take_back_sigterm()
    except (RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        await asyncio.to_thread(ray.shutdown)
        whom = f"the Ray cluster at {address} cannot be joined" if address else "no Ray cluster can be started"
        raise RayEngineError(f"engine.ray_address: {whom}: {error}") from error
    try:
        yield is_own
    finally:
        await asyncio.to_thread(ray.shutdown)


async def _check_answers(address: str | None) -> None:
    """Whether there is anybody to join, before Ray tries that for more than ten minutes and cannot be interrupted.

    Raises:
        RayEngineError: nobody answers, or that is no address.
    """
    told = await asyncio.to_thread(meant_cluster, address)
    try:
        where = None if told is None else Address.parse(told)
    except ValueError:
        where = None
    if where is None or where.is_unix:
        if address is not None:
            raise RayEngineError(f"engine.ray_address: must be host:port, not {address!r}")
        return  # none, or what only Ray understands, such as RAY_ADDRESS=local
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            (await connect(where, "Ray cluster")).close()
    except (ServiceError, TimeoutError) as error:
        hint = "" if address else "; `ray stop` makes this machine forget one that is gone"
        raise RayEngineError(f"engine.ray_address: no Ray cluster answers at {told}{hint}") from error


def _join(address: str | None) -> bool:
    """Whether the cluster is our own."""
    quiet = {"log_to_driver": False, "configure_logging": False}
    if address is None:
        started = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        try:
            ray.init(**started, **quiet)
        except ValueError:  # there is a cluster already, which has its own
            log.debug("a Ray cluster runs here already")
        else:
            host = ray.util.get_node_ip_address()
            log.info("a Ray cluster of this machine alone was started", host=host)
            if not ipaddress.ip_address(host).is_loopback:
                log.warning("the Ray cluster that was started listens beyond this machine", host=host)
            return True
    ray.init(address=address or "auto", **quiet)
    log.info("joined the Ray cluster", address=ray.get_runtime_context().gcs_address)
    return False


def _take_back_sigterm() -> None:
    """Have SIGTERM do what it did before Ray was joined, whose own handler aborts the process three seconds later."""
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
        signal.siginterrupt(signal.SIGTERM, False)  # as event loops have it


def _tame_logs() -> None:
    """Undo what importing Ray does to the logs of this process: a field of its own in every line, whoever writes it."""
    logging.setLogRecordFactory(logging.LogRecord)
    ray_log = logging.getLogger("ray")
    ray_log.handlers.clear()
    ray_log.propagate = True
    ray_log.setLevel(logging.ERROR)


async def nodes_of_cluster() -> list[Node]:
    """Its machines that are alive."""
    return [
        Node(
            id=node["NodeID"],
            host=node["NodeManagerAddress"],
            cpus=int(node["Resources"].get("CPU", 0)),
            gpus=int(node["Resources"].get("GPU", 0)),
        )
        for node in await asyncio.to_thread(ray.nodes)
        if node["Alive"]
    ]


async def start_actor(
    kind: type, *, cpus: int = 0, gpus: int = 0, node_id: str | None = None, may_move: bool = False
) -> Any:
    """An actor that the cluster is asked for: its methods are answered once there is room for it.

    Args:
        node_id: the machine for it; None is any, one with few actors first.
        may_move: to another machine, where that one is gone.
    """
    strategy = "SPREAD" if node_id is None else NodeAffinitySchedulingStrategy(node_id, soft=may_move)
    options = {
        "num_cpus": cpus,
        "num_gpus": gpus,
        "max_restarts": 0,  # whoever asked for it has to know
        "scheduling_strategy": strategy,
    }
    # In a thread: for the first of its kind, Ray stores the class in the cluster.
    return await asyncio.to_thread(lambda: ray.remote(kind).options(**options).remote())


async def end_actor(actor: Any) -> None:
    """Kill an actor, and what it runs. One that is gone is let be."""
    await asyncio.to_thread(ray.kill, actor)


def reason_of(error: RayError) -> str:
    """In one line, without Ray's advice."""
    cause = getattr(error, "cause", None)
    if cause is not None:  # what a method raised; the error's own text is a traceback
        return str(cause)
    lines = [line for line in str(error).splitlines() if line and not line.startswith("\t")]
    return " ".join(lines).partition(" Some common causes include")[0]
