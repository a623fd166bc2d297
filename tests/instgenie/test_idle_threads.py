"""How threads wait, unless somebody says otherwise."""

from __future__ import annotations

import subprocess
import sys

import pytest

from instgenie.idle_threads import let_idle_threads_sleep

MODULES = "import sys; import instgenie.idle_threads; sys.exit('torch' in sys.modules)"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "1000"}, {"GOMP_SPINCOUNT": "1000"}),
    ],
)
def test_threads_sleep_unless_somebody_chose(given: dict[str, str], expected: dict[str, str]) -> None:
    let_idle_threads_sleep(given)
    assert given == expected


def test_it_comes_before_torch() -> None:
    assert subprocess.run([sys.executable, "-c", MODULES], check=False).returncode == 0
