"""What `instgenie edit` says when it is done: for people and for machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from instgenie.orders import PhaseTimings, ServingTier

if TYPE_CHECKING:
    from instgenie.request import EditRequest, EditTimings
    from instgenie_server.cli.comparison import Comparison
    from instgenie_server.cli.loading import LoadedEditor
    from instgenie_server.cli.remote_edit import EditedRemotely


_PLACES: Mapping[ServingTier, str] = {
    "device": "the device's memory",
    "host": "memory",
    "disk": "disk",
    "object": "the object store",
}


def edit_report(
    loaded: LoadedEditor,
    request: EditRequest,
    timings: EditTimings,
    comparison: Comparison | None,
    chosen: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The JSON object of `--timings`. Times are those of the edit that was written; `window` and `canvas` in pixels.

    Args:
        request: as it was made.
        chosen: by `--fidelity`; None where that was not given.
    """
    window = loaded.editor.window(request)
    report: dict[str, Any] = {
        "encode_ms": timings.encode_ms,
        "record_ms": timings.record_ms,
        "denoise_ms": timings.denoise_ms,
        "decode_ms": timings.decode_ms,
        "step_ms_median": median(timings.step_ms),
        "steps": len(timings.step_ms) + timings.extrapolated_steps,
        "dense_steps": timings.dense_steps,
        "refreshes": timings.refreshes,
        "extrapolated_steps": timings.extrapolated_steps,
        "tokens_active": timings.tokens_active,
        "tokens_total": timings.tokens_total,
        "cache": timings.cache,
        "tier": timings.tier,
        "dtype": loaded.dtype,
        "model": loaded.editor.checkpoint.settings.name,
        "load_ms": loaded.load_ms,
        "window": [window.left, window.top, window.width, window.height],
        "canvas": [window.canvas_width, window.canvas_height],
        "seed": request.seed,
    }
    if chosen is not None:
        report["fidelity"] = dict(chosen)
    if comparison is not None:
        report |= asdict(comparison) | {"speedup": comparison.speedup}
    return _rounded(report)


def remote_report(edited: EditedRemotely, request: EditRequest, seconds: float) -> dict[str, Any]:
    """The JSON object of `--timings` where a server made the edit; `total_ms` is what its caller waited for it all."""
    timings = asdict(edited.timings)
    computed = timings["steps"] - timings["extrapolated_steps"]
    mean = {"step_ms_mean": timings["denoise_ms"] / computed} if computed else {}
    chosen = {} if edited.fidelity is None else {"fidelity": edited.fidelity}
    return _rounded(timings | mean | edited.about | chosen | {"seed": request.seed, "total_ms": 1000 * seconds})


def chosen_settings(request: EditRequest) -> dict[str, Any]:
    """What `--fidelity` made of a request, as a server tells it, too."""
    if not request.cached:
        return {"dense": True}
    return {
        "dense": False,
        "halo": request.halo,
        "refreshes": request.refreshes,
        "step_cache": request.step_cache,
    }


def _share(timings: EditTimings | PhaseTimings) -> float:
    """Of the tokens that computing all of them in every step would take."""
    taken = timings.steps if isinstance(timings, PhaseTimings) else len(timings.step_ms) + timings.extrapolated_steps
    computed, total = taken - timings.extrapolated_steps, timings.tokens_total
    tokens = timings.dense_steps * total + (computed - timings.dense_steps) * timings.tokens_active
    return tokens / (taken * total) if taken and total else 0.0


def _told(chosen: Mapping[str, Any]) -> str:
    if chosen["dense"]:
        return "all tokens"
    return ", ".join(f"{name.replace('_', '-')} {value}" for name, value in chosen.items() if name != "dense")


def _rounded(report: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in report.items()}


def summary(
    out: Path,
    seconds: float,
    timings: EditTimings | PhaseTimings,
    comparison: Comparison | None = None,
    chosen: Mapping[str, Any] | None = None,
) -> str:
    """One line: what was written, how long it took, how much was computed.

    Args:
        chosen: by `--fidelity`, as `--timings` tells it; None where that was not given.
    """
    active, total = timings.tokens_active, timings.tokens_total
    line = f"wrote {out} in {seconds:.1f} s: {_share(timings):.0%} of a dense edit's tokens computed"
    if active < total:
        line += f", {active} of {total} in a masked step"
    if timings.tier is not None:
        line += f", the picture's records came from {_PLACES[timings.tier]}"
    if timings.cache == "refused":
        line += "; the cache had no room for the picture's records"
    elif timings.cache == "partial":
        line += f", all of them in {timings.dense_steps - timings.refreshes} steps that the cache did not serve"
    if chosen is not None:
        line += f"; --fidelity chose {_told(chosen)}"
    if comparison is not None:
        likeness = "identical" if comparison.psnr_in_mask_db is None else f"{comparison.psnr_in_mask_db:.1f} dB alike"
        line += f"; {comparison.speedup:.1f} times as fast as dense, {likeness} under the mask"
    return line
