"""A replica in this process from a loaded model, its store, and settings."""

from __future__ import annotations

import logging
from dataclasses import replace

from instgenie.checkpoint import Checkpoint
from instgenie.codecs import CodecName
from instgenie.editor import Editor
from instgenie.replica.default_limits import default_limits, dense_rows
from instgenie.replica.local_replica import LocalReplica
from instgenie_cache import RecordStore
from instgenie_cache.default_folder import default_folder
from instgenie_cache.eviction import PolicyName

log = logging.getLogger(__name__)


def build_replica(
    checkpoint: Checkpoint,
    store: RecordStore,
    *,
    codec: CodecName,
    drift: float,
    device_bytes: int | None,
    policy: PolicyName,
    plans: bool,
    batch_edits: int | None = None,
    batch_tokens: int | None = None,
    compiles: bool = False,
) -> LocalReplica:
    """A replica that is not calibrated yet; costs that it measures are kept beside this machine's records.

    Args:
        store: the replica's from then on.
        codec, drift, device_bytes, policy: of records, as for `Editor`.
        plans: whether steps are planned.
        batch_edits, batch_tokens: most in a step; None suits the device. Where tokens are fewer than an edit computes
            in a dense step, such as a refresh, that is logged.
        compiles: whether parts of the model are compiled now, if they can be.
    Raises:
        ParameterError: drift is not in 0 <= drift < 1.
    """
    if compiles:
        checkpoint.forward.compile()
    editor = Editor(checkpoint, store, codec=codec, drift=drift, device_cache_bytes=device_bytes, eviction=policy)
    limits = default_limits(checkpoint)
    limits = replace(limits, edits=batch_edits or limits.edits, rows=batch_tokens or limits.rows)
    if limits.rows < (needed := dense_rows(checkpoint)):
        log.warning(
            "a batch may have %d tokens, and an edit of the model's whole canvas computes %d where it computes all: "
            "one that begins with such a step waits until nothing else runs",
            limits.rows,
            needed,
        )
    costs_folder = default_folder().expanduser().parent / "costs"
    return LocalReplica(editor, str(checkpoint.forward.device), costs_folder, plans=plans, limits=limits)
