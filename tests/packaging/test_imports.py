"""What importing a package must not bring along."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
print(*sorted({"torch", "diffusers", "transformers"} & set(sys.modules)))
"""


@pytest.mark.parametrize("package", ["instgenie_cache", "instgenie_server"])
def test_package_imports_without_torch(package: str) -> None:
    result = subprocess.run([sys.executable, "-c", IMPORT_ALL, package], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
