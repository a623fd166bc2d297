"""The replicas that the benchmark of batching compares, on one model and one store of records."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

from torch import Tensor

from bench.batching_load import warm_order
from instgenie.checkpoint import Checkpoint
from instgenie.editor import Editor
from instgenie.models.flux import FluxForward
from instgenie.models.segment import Segment
from instgenie.orders import CachePolicy, Pixels
from instgenie.replica.default_limits import default_limits
from instgenie.replica.local_replica import LocalReplica
from instgenie.sched.limits import BatchLimits
from instgenie.tracing import current_tracer
from instgenie_cache import MemoryStore

STORE_BYTES = 8 << 30
_NO_LIMIT = 1 << 20  # rows

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class System:
    """A way to serve edits.

    Attributes:
        limits: of its batches.
        is_inline: whether pictures are prepared, pasted and made files of by the thread that takes the steps.
    """

    name: str
    limits: BatchLimits
    cache: CachePolicy = "only"
    is_inline: bool = False


def systems(checkpoint: Checkpoint) -> tuple[System, ...]:
    """Ours, and what it is compared with, the dense one last.

    A static batch takes up to as many edits as ours, and has them encoded ahead, so that it can begin full. Dense ones
    are not bound by tokens, which ours reaches with fewer edits than those of dense ones would be.
    """
    ours = default_limits(checkpoint)
    static = replace(ours, joins="empty", encode_ahead=ours.edits)
    return (
        System("ours", ours),
        System("ours, static", static),
        System("ours, inline", ours, is_inline=True),
        System("dense, static", replace(static, rows=_NO_LIMIT), cache="off"),
    )


def batch_of(edits: int) -> System:
    """Ours, with batches of up to so many edits, whatever their tokens."""
    return System(f"batches of {edits}", BatchLimits(edits=edits, rows=_NO_LIMIT))


class TracedForward(FluxForward):
    """A forward that traces its calls."""

    def __init__(self, forward: FluxForward) -> None:
        vars(self).update(vars(forward))  # compiled or not

    def __call__(self, segments: Sequence[Segment], on_block: Callable[[int], None] = lambda _: None) -> list[Tensor]:
        """See `FluxForward`."""
        with current_tracer().span("forward", segments=len(segments)):
            return super().__call__(segments, on_block)


class Workplace:
    """A model and its records, which outlive the replicas that work with them. One of these works at a time."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = replace(checkpoint, forward=TracedForward(checkpoint.forward))
        self._store = _KeptStore(STORE_BYTES)

    @asynccontextmanager
    async def replica(self, system: System, pictures: Sequence[Pixels], steps: int) -> AsyncIterator[LocalReplica]:
        """A replica that is warm: it has run, and templates of the pictures are in memory, as their encodings are."""
        kind = _InlineReplica if system.is_inline else LocalReplica
        editor = Editor(self.checkpoint, self._store)
        replica = kind(editor, str(self.checkpoint.forward.device), limits=system.limits)
        try:
            await replica.calibrate()
            for picture in pictures:
                await replica.warm(warm_order(picture, steps), lambda _: None)
            yield replica
        finally:
            await replica.close()


class _KeptStore(MemoryStore):
    """Stays when an editor closes it: the next one finds its records."""

    def close(self) -> None:
        """Nothing."""


class _InlineReplica(LocalReplica):
    """The strawman: the thread that takes the steps does everything else, too, and edits that run wait for it."""

    def __init__(self, editor: Editor, device: str, *, limits: BatchLimits) -> None:
        super().__init__(editor, device, limits=limits)
        self._runner._finishers = _AtOnce()

    async def _prepare(self, act: Callable[[], T]) -> T:
        return await self._on_device(act)


class _AtOnce(ThreadPoolExecutor):
    """Has no threads: what it is given is done by whoever gives it."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `Executor`; what `fn` raises goes to the future."""
        future = Future[T]()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 whoever waits is told
            future.set_exception(error)
        return future
