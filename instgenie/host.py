"""The machine and the libraries that this process computes with."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def compute_device() -> torch.device:
    """The first CUDA device, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def describe_devices() -> list[str]:
    """One line per device, the CPU last."""
    gpus = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return [*gpus, f"cpu {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"]


def set_threads(threads: int) -> None:
    """How many threads an operation on the CPU may use."""
    torch.set_num_threads(threads)


def num_threads() -> int:
    """How many threads an operation on the CPU uses."""
    return torch.get_num_threads()


def available_memory_bytes() -> int:
    """Memory that can be taken without swapping: the machine's, or this control group's if that is less (Linux)."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if _MEMINFO.exists():
        fields = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
        available = min(available, int(fields["MemAvailable"].split()[0]) << 10)
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except FileNotFoundError:  # no control group of version 2, or its root
        return available
    return available if limit == "max" else min(available, int(limit) - int(used))


def quiet_libraries() -> None:
    """No progress bars and no hints from diffusers and transformers: for programs whose own output is read."""
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
