"""Where `instgenie edit` keeps records."""

from __future__ import annotations

from pathlib import Path

import pytest

from instgenie.errors import ParameterError
from instgenie_server.cli.record_folder import record_disk_bytes, record_folder


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        ("/here", {"INSTGENIE_CACHE__FOLDER": "/there"}, Path("/here")),
        (None, {"INSTGENIE_CACHE__FOLDER": "/there", "XDG_CACHE_HOME": "/caches"}, Path("/there")),
        (None, {"INSTGENIE_CACHE__FOLDER": "", "XDG_CACHE_HOME": "/caches"}, Path("/caches/instgenie/records")),
        (None, {}, Path("~/.cache/instgenie/records").expanduser()),
        ("none", {"INSTGENIE_CACHE__FOLDER": "/there"}, None),
        (None, {"INSTGENIE_CACHE__FOLDER": "None"}, None),
        ("~nobody-of-that-name/x", {}, None),
        ("relative", {}, Path.cwd() / "relative"),
    ],
)
def test_flag_then_environment_then_default(given: str | None, environ: dict[str, str], expected: Path | None) -> None:
    assert record_folder(given, environ) == expected


def test_disk_budget_of_the_environment(tmp_path: Path) -> None:
    assert record_disk_bytes(tmp_path, {"INSTGENIE_CACHE__DISK_BYTES": "12"}) == 12
    assert record_disk_bytes(tmp_path, {"INSTGENIE_CACHE__DISK_BYTES": "none"}) > 12
    assert record_disk_bytes(tmp_path, {}) > 12


def test_a_budget_that_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"INSTGENIE_CACHE__DISK_BYTES.*'much'"):
        record_disk_bytes(tmp_path, {"INSTGENIE_CACHE__DISK_BYTES": "much"})
