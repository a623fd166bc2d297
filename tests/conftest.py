"""Which tests run (`slow` ones with --slow or CI=true, `gpu` ones where there is a CUDA device), tiny models, and a
folder of records for each test.
"""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from instgenie.idle_threads import let_idle_threads_sleep

let_idle_threads_sleep()  # before torch is imported anywhere
settings.register_profile("tests", deadline=None)  # that an example took long is no failure: machines are busy
settings.load_profile("tests")
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup servers would inherit that it is ignored, and heed that


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", default=os.environ.get("CI") == "true", help="run slow tests too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_items and not has_cuda():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="gpu: no CUDA device"))


def has_cuda() -> bool:
    import torch  # here, for runs without gpu tests need not wait for it

    return torch.cuda.is_available()


_numbers = itertools.count()


@pytest.fixture(autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's records are by default, its processes' too: not the user's own. It is not made before use."""
    folder = tmp_path_factory.getbasetemp() / f"xdg{next(_numbers)}"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_builtin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random model of the embedded model's kind; not to be written to."""
    from tests.tiny_models import save_tiny_builtin

    return save_tiny_builtin(tmp_path_factory.mktemp("models") / "tiny-builtin")


@pytest.fixture(scope="session")
def tiny_flux_fill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random model of Flux Fill's kind; not to be written to."""
    from tests.tiny_models import save_tiny_flux_fill

    return save_tiny_flux_fill(tmp_path_factory.mktemp("models") / "tiny-flux-fill")
