"""The Dockerfile, by a linter, and against what it is built from."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILE = DOCKER / "Dockerfile"


def pins(variant: str) -> dict[str, Version]:
    lines = (DOCKER / f"constraints-{variant}.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_the_linter_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_all_that_is_copied_is_let_into_the_build() -> None:
    let_in = re.findall(r"^!/(.+)$", (DOCKER / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    copied = [
        name
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
        for name in line.replace("${VARIANT}", "cpu").split()
    ]
    assert set(copied) <= set(let_in)
    assert set(let_in) - set(copied) == {"docker/constraints-cuda.txt"}
    assert [name for name in let_in if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(("variant", "extras"), [("cpu", ["server", "object"]), ("cuda", ["server", "object", "cuda"])])
def test_constraints_pin_what_the_project_asks_for(variant: str, extras: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    pinned = pins(variant)
    for requirement in map(Requirement, lines):
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_cpu_image_has_nothing_of_cuda() -> None:
    assert [name for name in pins("cpu") if name.startswith(("nvidia", "cu", "triton"))] == []


def test_both_images_have_the_same_versions() -> None:
    cpu, cuda = pins("cpu"), pins("cuda")
    assert {name: cuda.get(name) for name in cpu} == cpu
