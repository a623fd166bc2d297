"""What a figure was measured on: every benchmark's JSON has it as `environment`."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

_CPUINFO = Path("/proc/cpuinfo")
_RESULTS = "scripts/bench/results"


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine, the libraries, the source.

    Attributes:
        cpu: model name, or the architecture where Linux does not tell it.
        cores: cores that this process may use.
        threads: threads of an operation of torch.
        gpu: of the first CUDA device.
        commit: of this checkout, with `-dirty` where a file differs from it, those of results aside; None outside git.
    """

    cpu: str
    cores: int
    threads: int
    gpu: str | None
    platform: str
    python: str
    torch: str
    commit: str | None


def environment() -> dict[str, str | int | None]:
    """This process's `Environment`, for JSON."""
    found = Environment(
        cpu=cpu_model(_CPUINFO.read_text() if _CPUINFO.exists() else ""),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        platform=platform.platform(),
        python=platform.python_version(),
        torch=torch.__version__,
        commit=commit_of(Path(__file__).parents[2]),
    )
    return asdict(found)


def cpu_model(cpuinfo: str) -> str:
    """The model that /proc/cpuinfo names; the architecture where it names none, as on Arm."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def commit_of(root: Path) -> str | None:
    """The commit of a checkout, with `-dirty` where its files differ from it; results count as no difference.

    A benchmark that writes its own would else make all that come after it dirty.
    """
    git = shutil.which("git")
    if git is None:
        return None

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run((git, *arguments), cwd=root, capture_output=True, text=True, check=False)

    commit = run("rev-parse", "--verify", "HEAD").stdout.strip()
    changed = run("diff", "--quiet", "HEAD", "--", ".", f":(exclude){_RESULTS}").returncode
    return (commit + "-dirty" * bool(changed)) if commit else None
