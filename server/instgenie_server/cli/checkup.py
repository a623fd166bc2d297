"""What `instgenie doctor` measures."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from instgenie_server.cli.loading import DtypeChoice, load_editor

if TYPE_CHECKING:
    from instgenie.checkpoint import Checkpoint
    from instgenie.request import EditRequest

LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "pillow")
TRIAL_STEPS = 3
TRIAL_SHARE = 0.1  # of the picture is masked


def check_machine(threads: int | None) -> dict[str, Any]:
    """Versions, devices, threads, and the speed of the dtypes on the device that would be used."""
    from instgenie.compute_dtype import measure_dtypes
    from instgenie.host import compute_device, describe_devices, num_threads, set_threads
    from instgenie.records import dtype_name

    if threads is not None:
        set_threads(threads)
    speeds = measure_dtypes(compute_device())
    return {
        "versions": {
            "instgenie": version("instgenie"),
            "python": platform.python_version(),
            **{library: version(library) for library in LIBRARIES},
        },
        "devices": describe_devices(),
        "device": str(compute_device()),
        "threads": num_threads(),
        "gflops": {"float32": round(speeds.float32, 1), "bfloat16": round(speeds.bfloat16, 1)},
        "dtype": dtype_name(speeds.chosen),
    }


def check_model(folder: Path | None, dtype: DtypeChoice, threads: int | None) -> dict[str, Any]:
    """Load the model and time its steps on a synthetic picture; `ok` is False and `error` says why if that fails."""
    from instgenie.checkpoint import BUILTIN
    from instgenie.errors import InstGenIEError

    where = {"folder": str(folder or BUILTIN)}
    try:
        loaded = load_editor(folder, dtype, threads)
        editor, checkpoint = loaded.editor, loaded.editor.checkpoint
        request = _trial(checkpoint)
        editor.edit(request)
        dense, masked = editor.dense(request).timings, editor.edit(request).timings
    except InstGenIEError as error:
        return {"ok": False, "error": str(error), **where}
    return {
        "ok": True,
        **where,
        "name": checkpoint.settings.name,
        "revision": checkpoint.revision,
        "parameters": sum(weight.numel() for weight in checkpoint.forward.transformer.parameters()),
        "dtype": loaded.dtype,
        "load_ms": round(loaded.load_ms, 1),
        "dense_step_ms": round(median(dense.step_ms), 3),
        "masked_step_ms": round(median(masked.step_ms), 3),
        "tokens_active": masked.tokens_active,
        "tokens_total": masked.tokens_total,
    }


def _trial(checkpoint: Checkpoint) -> EditRequest:
    """An edit of a gradient of the model's own size, with a square mask in its middle."""
    import numpy as np
    from PIL import Image

    from instgenie.request import EditRequest

    side = checkpoint.codec.patch * round(checkpoint.settings.canvas_tokens**0.5)
    ramp = np.linspace(0, 255, side).astype(np.uint8)
    picture = np.stack([*np.meshgrid(ramp, ramp), np.full((side, side), 128, np.uint8)], axis=-1)
    inset = round(side * (1 - TRIAL_SHARE**0.5) / 2)
    mask = np.zeros((side, side), bool)
    mask[inset:-inset, inset:-inset] = True
    return EditRequest(picture=Image.fromarray(picture), mask=mask, prompt="a red ball", steps=TRIAL_STEPS)
