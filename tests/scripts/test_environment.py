"""What benchmarks say of where they ran."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path

import torch

from bench.environment import commit_of, cpu_model, environment

CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
model\t\t: 85
model name\t: An Example: CPU @ 2.00GHz
processor\t: 1
model name\t: Another
"""


def test_the_cpu_is_the_first_that_linux_names() -> None:
    assert cpu_model(CPUINFO) == "An Example: CPU @ 2.00GHz"
    assert cpu_model("processor\t: 0\nCPU part\t: 0xd0c\n") == platform.machine()
    assert cpu_model("") == platform.machine()


def test_environment_is_json_and_names_what_figures_depend_on() -> None:
    found = json.loads(json.dumps(environment()))
    assert set(found) == {"cpu", "cores", "threads", "gpu", "platform", "python", "torch", "commit"}
    assert (found["torch"], found["threads"]) == (torch.__version__, torch.get_num_threads())
    assert found["cpu"]
    assert found["cores"] >= 1
    assert found["commit"] is None or len(found["commit"].removesuffix("-dirty")) == 40


def test_results_make_no_checkout_dirty(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        named = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        return subprocess.run(
            ("git", *named, *arguments), cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    assert commit_of(tmp_path) is None
    git("init", "-q")
    results, code = tmp_path / "scripts" / "bench" / "results" / "a.json", tmp_path / "code.py"
    results.parent.mkdir(parents=True)
    for file in (results, code):
        file.write_text("1")
    git("add", ".")
    git("commit", "-qm", "a")
    commit = git("rev-parse", "HEAD").strip()
    results.write_text("2")
    assert commit_of(tmp_path) == commit
    code.write_text("2")
    assert commit_of(tmp_path) == f"{commit}-dirty"
