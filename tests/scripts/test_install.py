"""`scripts/install` up to what pip does: where it installs, what it refuses, what it says to type."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# Stands in for the python of an environment: notes what it is called with. Asked whether torch knows CUDA, it says
# what the file `torch_cuda` beside it says. It fails where its arguments hold a line of the file `fails`.
PYTHON = """#!/usr/bin/env bash
here=$(dirname "$0")
echo "$@" >>"$here/calls"
while read -r part; do
    case "$*" in
        *"$part"*) echo "ERROR: cannot $part" >&2; exit 1 ;;
    esac
done <"$here/fails"
case "$*" in
    *torch.version.cuda*) exit "$(cat "$here/torch_cuda")" ;;
esac
"""
NVIDIA_SMI = "#!/usr/bin/env bash\necho GPU 0\n"


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for PATH that has what the script calls, and no nvidia-smi."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("bash", "env", "dirname", "cat", "mkdir", "chmod"):
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return folder


def environment_at(folder: Path, *, torch_cuda: bool = False) -> Path:
    """A virtual environment as far as the script can see."""
    (folder / "bin").mkdir(parents=True)
    _executable(folder / "bin" / "python", PYTHON)
    (folder / "bin" / "torch_cuda").write_text("0" if torch_cuda else "1")
    (folder / "bin" / "fails").write_text("")
    return folder


def _executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def install(tools: Path, cwd: Path, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("VENV", "VIRTUAL_ENV", "PYTHON")}
    env = kept | {"PATH": str(tools)} | variables
    return subprocess.run(
        (REPOSITORY / "scripts" / "install", *flags), cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


def test_a_venv_elsewhere_is_used_and_its_commands_are_told(tools: Path, tmp_path: Path) -> None:
    venv = environment_at(tmp_path / "else where")
    ran = install(tools, tmp_path, VENV="else where")  # relative to the caller's folder, not the repository's
    assert ran.returncode == 0, ran.stderr
    assert "install --quiet --editable .[server,dev]" in (venv / "bin" / "calls").read_text()
    (command,) = [line.strip() for line in ran.stdout.splitlines() if "activate" in line]
    _executable(venv / "bin" / "instgenie", "#!/usr/bin/env bash\necho this one\n")
    _executable(venv / "bin" / "activate", f'PATH="{venv}/bin:$PATH"\n')
    typed = subprocess.run(("bash", "-c", command), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert typed.stdout == "this one\n", typed.stderr
    assert "Where the documentation says .venv/bin/instgenie" in ran.stdout


def test_an_active_environment_needs_no_activation(tools: Path, tmp_path: Path) -> None:
    venv = environment_at(tmp_path / "active")
    ran = install(tools, tmp_path, VIRTUAL_ENV=str(venv))
    assert ran.returncode == 0, ran.stderr
    assert "source " not in ran.stdout
    assert "    instgenie --help\n" in ran.stdout


def test_cuda_without_a_gpu_is_refused_before_anything_is_installed(tools: Path, tmp_path: Path) -> None:
    venv = environment_at(tmp_path / "venv")
    ran = install(tools, tmp_path, "--cuda", VENV=str(venv))
    assert ran.returncode == 1
    assert "--cuda needs an NVIDIA GPU" in ran.stderr
    assert not (venv / "bin" / "calls").exists()


@pytest.mark.parametrize("torch_cuda", [True, False])
def test_cuda_wants_a_build_of_torch_that_has_it(tools: Path, tmp_path: Path, torch_cuda: bool) -> None:
    _executable(tools / "nvidia-smi", NVIDIA_SMI)
    venv = environment_at(tmp_path / "venv", torch_cuda=torch_cuda)
    ran = install(tools, tmp_path, "--cuda", VENV=str(venv))
    assert ran.returncode == (0 if torch_cuda else 1)
    assert ("a build of torch without CUDA" in ran.stderr) is not torch_cuda
    calls = (venv / "bin" / "calls").read_text()
    assert "download.pytorch.org/whl/cpu" not in calls
    assert ".[server,dev,cuda]" in calls


def test_an_index_of_cpu_builds_out_of_reach_is_no_error(tools: Path, tmp_path: Path) -> None:
    venv = environment_at(tmp_path / "venv")
    (venv / "bin" / "fails").write_text("show --quiet torch\nwhl/cpu\n")
    ran = install(tools, tmp_path, VENV=str(venv))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "taking the default build" in ran.stdout
    assert "install --quiet torch==" in (venv / "bin" / "calls").read_text()


def test_where_the_default_build_is_out_of_reach_too_both_errors_are_told(tools: Path, tmp_path: Path) -> None:
    venv = environment_at(tmp_path / "venv")
    (venv / "bin" / "fails").write_text("show --quiet torch\nwhl/cpu\ninstall --quiet torch==\n")
    ran = install(tools, tmp_path, VENV=str(venv))
    assert ran.returncode == 1
    assert "ERROR: cannot whl/cpu" in ran.stderr
    assert "ERROR: cannot install --quiet torch==" in ran.stderr
    assert "--editable" not in (venv / "bin" / "calls").read_text()


def test_ray_is_an_extra(tools: Path, tmp_path: Path) -> None:
    venv = environment_at(tmp_path / "venv")
    assert install(tools, tmp_path, "--ray", VENV=str(venv)).returncode == 0
    assert "install --quiet --editable .[server,dev,ray]" in (venv / "bin" / "calls").read_text()


def test_an_unknown_flag_is_refused(tools: Path, tmp_path: Path) -> None:
    ran = install(tools, tmp_path, "--gpu", VENV=str(tmp_path / "none"))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "usage: scripts/install [--cuda] [--ray]" in ran.stderr
    assert not (tmp_path / "none").exists()
