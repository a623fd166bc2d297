"""What can be seen to be missing before anything is started: whoever asked for it is told at once.

Replicas look for themselves, too, and more closely; but by then processes run, and a model may be loaded.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from instgenie_server.operator_error import SettingsError
from instgenie_server.settings import EngineSettings

_MODEL_FILE = "model_index.json"
_NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")  # a folder for each; not there in WSL
_NVIDIA_DRIVER = "libcuda.so.1"
_AMD_DRIVER = Path("/dev/kfd")  # torch calls its devices cuda, too


def check_engine(engine: EngineSettings) -> None:
    """Look for what the settings name on this machine. Replicas elsewhere have theirs elsewhere.

    Raises:
        SettingsError: the model's folder, a device, or the trace file's folder is not there, or cannot be used.
    """
    if engine.kind != "processes" or engine.replica not in ("own", "inline"):
        return
    problems = [*_model(engine.model), *_trace(engine.trace)]
    for device in engine.devices or ():
        problems += _device(device)
    if problems:
        raise SettingsError(problems)


def _model(folder: Path | None) -> list[str]:
    if folder is None:
        return []
    if not folder.is_dir():
        return [f"engine.model: there is no folder {folder}"]
    if not (folder / _MODEL_FILE).exists():
        return [f"engine.model: {folder} is no model folder in the diffusers format: it has no {_MODEL_FILE}"]
    return []


def _trace(file: Path | None) -> list[str]:
    if file is None:
        return []
    if not file.parent.is_dir():
        return [f"engine.trace: there is no folder {file.parent} for {file.name}"]
    if file.is_dir():
        return [f"engine.trace: {file} is a folder"]
    if not os.access(file.parent, os.W_OK):
        return [f"engine.trace: the folder {file.parent} cannot be written"]
    return []


def _device(device: str) -> list[str]:
    """Only what is certain without torch, which takes seconds to import: a driver may still show fewer devices."""
    if device == "cpu" or _AMD_DRIVER.exists():
        return []
    if not _has_nvidia_driver():
        return [f"engine.devices: there is no {device} here: no driver of a GPU was found"]
    number = int(device.partition(":")[2] or 0)
    gpus = len(list(_NVIDIA_GPUS.iterdir())) if _NVIDIA_GPUS.is_dir() else 0
    if gpus and number >= gpus:  # 0 tells nothing: there is a driver
        return [f"engine.devices: there is no {device} here: GPUs are numbered from 0, and there are {gpus}"]
    return []


def _has_nvidia_driver() -> bool:
    try:
        ctypes.CDLL(_NVIDIA_DRIVER)
    except OSError:
        return False
    return True
