"""The costs of a model on this machine: kept ones where there are any, else measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from instgenie.codecs import codec_version
from instgenie.host import describe_devices, num_threads
from instgenie.models.flux import FluxForward
from instgenie.pipeline.calibration import calibrate, refresh
from instgenie.pipeline.cost import CostModel
from instgenie.pipeline.cost_file import CostFingerprint, read_costs, write_costs
from instgenie.pipeline.probe import UsualEdit
from instgenie.records import dtype_name

Measure = Callable[[FluxForward, UsualEdit, float], CostModel]


def known_costs(
    forward: FluxForward,
    revision: str,
    edit: UsualEdit,
    folder: Path | None,
    limit_s: float = 2.0,
    measure: Measure = calibrate,
) -> CostModel:
    """Costs that were kept in the folder, set right by a few passes; else measured ones, which are kept then.

    Args:
        revision: of the model.
        folder: None keeps nothing.
        limit_s: as for `calibrate`.
        measure: how costs are measured.
    """
    fingerprint = _fingerprint(forward, revision, edit)
    costs = None if folder is None else read_costs(folder, fingerprint)
    if costs is not None:
        refresh(forward, edit, costs)
        return costs
    costs = measure(forward, edit, limit_s)
    if folder is not None:
        write_costs(folder, fingerprint, costs)
    return costs


def _fingerprint(forward: FluxForward, revision: str, edit: UsualEdit) -> CostFingerprint:
    device = forward.device
    return CostFingerprint(
        revision=revision,
        device=describe_devices()[(device.index or 0) if device.type == "cuda" else -1],
        dtype=dtype_name(forward.dtype),
        threads=num_threads(),
        torch_version=torch.__version__,
        codec=codec_version(edit.codec),
        decodes_ahead=edit.decodes_ahead,
        canvas_tokens=edit.canvas_tokens,
        text_tokens=edit.text_tokens,
        passes=edit.passes,
    )
