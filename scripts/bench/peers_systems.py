"""What is compared: each system makes the same edits from the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

from PIL import Image

from bench.peers_caches import batched_caches, cached, calibrated_ratios, sequential_caches
from bench.peers_ours import MaskedAlone, OurEdits
from bench.peers_pipeline import DiffusersEdits
from instgenie.checkpoint import Checkpoint
from instgenie.codecs import CodecName
from instgenie.editor import Editor
from instgenie.request import EditRequest
from instgenie_cache import MemoryStore

Group = Literal["diffusers", "step cache", "strawman", "ours"]

REFERENCE, OURS = "diffusers, one by one", "ours"
BATCH = 4
HALOS = (0, 1, 2)
RECORDS: tuple[tuple[CodecName, float], ...] = (("int8", 0.0), ("raw", 0.14), ("int8", 0.26))
STEP_CACHES = (2, 3, 4)
_STORE_BYTES = 3 << 30  # of a batch of the medium model's templates


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One row.

    Attributes:
        batch: edits that it makes at a time.
        edit: makes the pictures; what it takes is measured.
        record: what is done before, and not measured.
        around: what the edit is made in, not measured.
        attended: share of the passes of the last edit which computed the attention of the last block; None: all did.
    """

    name: str
    group: Group
    edit: Callable[[Sequence[EditRequest]], list[Image.Image]]
    batch: int = 1
    record: Callable[[Sequence[EditRequest]], None] = lambda _: None
    around: Callable[[], AbstractContextManager[None]] = nullcontext
    attended: Callable[[], float] | None = None


@contextmanager
def systems(checkpoint: Checkpoint, calibration: EditRequest) -> Iterator[list[System]]:
    """All of them, the reference first.

    Args:
        calibration: an edit for what has to be measured on the model first.
    """
    with ExitStack() as stack:
        yield [*_by_diffusers(checkpoint, calibration, stack), *_by_ours(checkpoint, stack)]


def _by_diffusers(checkpoint: Checkpoint, calibration: EditRequest, stack: ExitStack) -> list[System]:
    one_by_one, together = DiffusersEdits(checkpoint), DiffusersEdits(checkpoint, together=True)
    drifting = DiffusersEdits(checkpoint, keeps=False)
    for edits in (one_by_one, together, drifting):
        stack.callback(edits.close)
    found = [
        System(name=REFERENCE, group="diffusers", edit=one_by_one.edit),
        System(name="diffusers, static batches of 4", group="diffusers", edit=one_by_one.edit, batch=BATCH),
        System(name="diffusers, guidance as one batch", group="diffusers", edit=together.edit),
        System(name="diffusers, context not kept", group="diffusers", edit=drifting.edit),
    ]
    transformer = checkpoint.forward.transformer
    steps = calibration.steps or checkpoint.settings.steps
    mag_ratios = calibrated_ratios(transformer, steps, lambda: one_by_one.edit([calibration]))
    caches = [(one_by_one, named) for named in sequential_caches(mag_ratios, steps).items()]
    caches += [(together, named) for named in batched_caches(lambda: together.transformer.timestep).items()]
    for edits, (name, config) in caches:
        around = partial(cached, transformer, config)
        found.append(System(name=name, group="step cache", edit=edits.edit, around=around, attended=edits.attended))
    return found


def _by_ours(checkpoint: Checkpoint, stack: ExitStack) -> list[System]:
    def editor(codec: CodecName = "raw", drift: float = 0.0) -> Editor:
        made = Editor(checkpoint, MemoryStore(_STORE_BYTES), codec=codec, drift=drift)
        stack.callback(made.close)
        return made

    def row(name: str, edits: OurEdits, batch: int = 1) -> System:
        return System(name=name, group="ours", edit=edits.edit, record=edits.record, batch=batch)

    raw = editor()
    usual = OurEdits(raw)
    found = [
        System(name="masked tokens alone, no records", group="strawman", edit=MaskedAlone(checkpoint).edit),
        row("ours, dense", OurEdits(raw, cached=False)),
        row(OURS, usual),
        *(row(f"ours, halo {halo}, no refresh", OurEdits(raw, halo=halo, refreshes=0)) for halo in HALOS),
    ]
    for codec, drift in RECORDS:
        found.append(row(f"ours, {codec}" + f", drift {drift:g}" * bool(drift), OurEdits(editor(codec, drift))))
    found.append(row("ours, batches of 4", usual, BATCH))
    found += [row(f"ours, step cache {steps}", OurEdits(raw, step_cache=steps)) for steps in STEP_CACHES]
    found += [
        row("ours, 3 refreshes", OurEdits(raw, refreshes=3)),
        row("ours, 3 refreshes, step cache 2", OurEdits(raw, refreshes=3, step_cache=2)),
    ]
    found.append(row("ours, dense, step cache 2", OurEdits(raw, cached=False, step_cache=2)))
    return found
