"""Costs that were measured on this machine before, one JSON file for each way in which a model can be run."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

from instgenie.pipeline.cost import CostModel

log = logging.getLogger(__name__)

_VERSION = 1  # of the file and of how costs are measured


@dataclass(frozen=True, slots=True)
class CostFingerprint:
    """All that costs depend on: those of another fingerprint are not used.

    Attributes:
        revision: of the model.
        device: its name and size.
        dtype: that the model computes in.
        threads: of the CPU.
        torch_version: of the library that computes.
        codec: of records, with its version.
        decodes_ahead: whether the loader decodes them.
        canvas_tokens, text_tokens: of the passes that were timed.
        passes: that share an edit's records.
    """

    revision: str
    device: str
    dtype: str
    threads: int
    torch_version: str
    codec: str
    decodes_ahead: bool
    canvas_tokens: int
    text_tokens: int
    passes: int


def read_costs(folder: Path, fingerprint: CostFingerprint) -> CostModel | None:
    """Costs that `write_costs` was called with; None where there are none that can be used. Never raises."""
    path = _path(folder, fingerprint)
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("costs are measured anew: %s: %s", path, error)
        return None
    try:
        content = json.loads(text)
        if content["version"] != _VERSION or content["fingerprint"] != asdict(fingerprint):
            raise ValueError("of another version or fingerprint")
        return CostModel.from_dict(content["costs"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("costs are measured anew: %s: %r", path, error)
        return None


def write_costs(folder: Path, fingerprint: CostFingerprint, costs: CostModel) -> None:
    """Keep costs that are trusted. A folder that cannot be written to costs a calibration at the next start."""
    if not costs.is_trusted:
        return
    path = _path(folder, fingerprint)
    content = {"version": _VERSION, "fingerprint": asdict(fingerprint), "costs": costs.to_dict()}
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content, indent=1) + "\n")
        partial.replace(path)
    except OSError as error:
        log.warning("costs cannot be kept: %s: %s", path, error)


def _path(folder: Path, fingerprint: CostFingerprint) -> Path:
    digest = xxhash.xxh3_128_hexdigest(json.dumps(asdict(fingerprint), sort_keys=True).encode())
    return folder / f"costs-{digest}.json"
