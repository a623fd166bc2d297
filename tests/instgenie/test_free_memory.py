"""How much memory can be taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from instgenie.free_memory import available_memory_bytes

MB = 1 << 20


def test_available_memory_is_some_and_not_absurd() -> None:
    assert 1 << 20 < available_memory_bytes() < 1 << 50


def machine(
    root: Path, *, available: int, own: str, groups: dict[str, tuple[str, int, int]], version: str = "0::"
) -> Path:
    """A tree of /proc and /sys: groups are (limit, used, idle page cache) by path."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(
        f"MemTotal:  {64_000 * MB >> 10} kB\nMemAvailable:  {available >> 10} kB\nHuge: 0\n"
    )
    (root / "proc/self/cgroup").write_text(f"{version}{own}\n")
    for path, (limit, used, idle) in groups.items():
        folder = root / "sys/fs/cgroup" / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {idle}\nactive_file 5\n")
    return root


@pytest.mark.parametrize(
    ("groups", "own", "expected"),
    [
        ({}, "/", 900 * MB),
        ({"a": (str(500 * MB), 100 * MB, 0)}, "/a", 400 * MB),
        ({"a": (str(500 * MB), 450 * MB, 300 * MB)}, "/a", 350 * MB),  # page cache that can go counts as available
        ({"a": (str(500 * MB), 600 * MB, 0)}, "/a", 0),
        ({"a": (str(500 * MB), 100 * MB, 200 * MB)}, "/a", 500 * MB),
        ({"a": ("max", 100 * MB, 0)}, "/a", 900 * MB),
        ({"a": (str(300 * MB), 0, 0), "a/b": (str(800 * MB), 0, 0)}, "/a/b", 300 * MB),  # the outer one is tighter
        ({"a": (str(300 * MB), 0, 0)}, "/other", 900 * MB),
        ({"": (str(200 * MB), 0, 0)}, "/", 200 * MB),  # a container sees its own group as the root
    ],
)
def test_memory_of_a_control_group(
    groups: dict[str, tuple[str, int, int]], own: str, expected: int, tmp_path: Path
) -> None:
    assert available_memory_bytes(machine(tmp_path, available=900 * MB, own=own, groups=groups)) == expected


def test_control_groups_of_version_1_do_not_count(tmp_path: Path) -> None:
    groups = {"a": ("1", 0, 0)}
    root = machine(tmp_path, available=900 * MB, own="/a", groups=groups, version="4:memory:")
    assert available_memory_bytes(root) == 900 * MB


def test_system_without_either(tmp_path: Path) -> None:
    assert available_memory_bytes(tmp_path) > 0
