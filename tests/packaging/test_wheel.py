"""The built wheel works outside the repository: it brings its model and samples, and edits a picture."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that runs without the checkout on its path and without a network for models."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run(
        command, cwd=cwd, env=env | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def build_wheel(folder: Path) -> Path:
    """Build sdist and wheel from a copy of what git would commit, so that no earlier build/ gets in."""
    source = folder / "source"
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=REPOSITORY)
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, source / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", source, cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with nothing but the wheel in it.

    The dependencies are borrowed from the running environment by a .pth file. Python does not read .pth files of a
    folder that was added in this way, so an editable install of the checkout is not borrowed with them.
    """
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build_wheel(folder)
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel, cwd=folder)
    (site_packages,) = folder.glob("venv/lib/python*/site-packages")
    borrowed = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site_packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return folder / "venv"


@pytest.mark.parametrize("package", ["instgenie", "instgenie_cache", "instgenie_server"])
def test_package_comes_from_the_wheel(environment: Path, tmp_path: Path, package: str) -> None:
    located = run(environment / "bin" / "python", "-c", f"import {package}; print({package}.__file__)", cwd=tmp_path)
    module = Path(located.strip())
    assert module.is_relative_to(environment)
    assert (module.parent / "py.typed").exists()


def test_wheel_has_every_file_of_the_model(environment: Path) -> None:
    def builtin_files(root: Path) -> set[Path]:
        return {path.relative_to(root) for path in root.glob("instgenie/builtin/**/*") if path.is_file()}

    (site_packages,) = environment.glob("lib/python*/site-packages")
    assert builtin_files(site_packages) == builtin_files(REPOSITORY) != set()


def test_wheel_has_the_whole_web_page(environment: Path) -> None:
    (installed,) = environment.glob("lib/python*/site-packages/instgenie_server/page")
    kept = REPOSITORY / "server" / "instgenie_server" / "page"
    assert {path.name for path in installed.iterdir()} == {path.name for path in kept.iterdir()} != set()


def test_wheel_carries_every_licence_that_the_notice_names(environment: Path) -> None:
    licences = [path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("LICENSES/*.txt")]
    notice = (REPOSITORY / "NOTICE").read_text()
    assert licences
    assert all(name in notice for name in licences)
    (info,) = environment.glob("lib/python*/site-packages/instgenie-*.dist-info")
    fields = [line.partition(": ") for line in (info / "METADATA").read_text().splitlines()]
    carried = {value for name, _, value in fields if name == "License-File"}
    assert carried == {"LICENSE", "NOTICE", *licences}
    for name in carried:
        assert (info / "licenses" / name).read_bytes() == (REPOSITORY / name).read_bytes()


def test_help(environment: Path, tmp_path: Path) -> None:
    assert "edit" in run(environment / "bin" / "instgenie", "--help", cwd=tmp_path)


def test_wheel_edits_a_sample(environment: Path, tmp_path: Path) -> None:
    samples = next(environment.glob("lib/python*/site-packages/instgenie/builtin/samples"))
    template = min(samples.glob("*_template.png"))
    mask = template.with_name(template.name.replace("_template", "_mask"))
    out = tmp_path / "out.png"
    prompt = "a red apple"
    run(
        environment / "bin" / "instgenie",
        *("edit", template, "--mask", mask, "--prompt", prompt, "-o", out),
        cwd=tmp_path,
    )
    with Image.open(template) as before, Image.open(out) as after:
        assert after.size == before.size
        assert after.convert("RGB").tobytes() != before.convert("RGB").tobytes()
