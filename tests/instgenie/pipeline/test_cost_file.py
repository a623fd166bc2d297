"""Costs come back as they went, for what they were measured for alone; whatever a file holds is no error."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from instgenie.pipeline.cost import BlockFit, CostModel, LoadFit
from instgenie.pipeline.cost_file import CostFingerprint, read_costs, write_costs

FINGERPRINT = CostFingerprint("revision", "cpu AVX2, 2 cores", "float32", 2, "2.10", "raw.1/2", False, 576, 16, 2)


def a_model(r_squared: float = 0.99) -> CostModel:
    fit = BlockFit(0.6, 0.008, 7e-6, 5e-4, r_squared, 9)
    return CostModel(["single"], {"single": fit}, replace(fit, r_squared=0.1), {"host": LoadFit(0.1, 1e-6)})


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The file of a model's costs."""
    write_costs(tmp_path / "costs", FINGERPRINT, a_model())
    (path,) = (tmp_path / "costs").iterdir()
    return path


def test_costs_come_back(kept: Path) -> None:
    found = read_costs(kept.parent, FINGERPRINT)
    assert found is not None
    assert found.to_dict() == a_model().to_dict()


def test_costs_are_replaced(kept: Path) -> None:
    write_costs(kept.parent, FINGERPRINT, a_model(0.95))
    found = read_costs(kept.parent, FINGERPRINT)
    assert found is not None
    assert found.r_squared == {"single": 0.95}
    assert list(kept.parent.iterdir()) == [kept]


def test_nothing_is_kept_of_costs_that_are_not_trusted(tmp_path: Path) -> None:
    write_costs(tmp_path, FINGERPRINT, a_model(0.5))
    assert not list(tmp_path.iterdir())
    assert read_costs(tmp_path, FINGERPRINT) is None


def test_costs_of_something_else(kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    for field in fields(FINGERPRINT):
        value = getattr(FINGERPRINT, field.name)
        changes: dict[str, Any] = {field.name: not value if isinstance(value, bool) else value * 2}
        other = replace(FINGERPRINT, **changes)
        assert read_costs(kept.parent, other) is None
    assert not caplog.records  # there just is no file


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"version": 1}', b"3"])
def test_a_spoilt_file(kept: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    kept.write_bytes(content)
    assert read_costs(kept.parent, FINGERPRINT) is None
    assert "measured anew" in caplog.text
    write_costs(kept.parent, FINGERPRINT, a_model())
    assert read_costs(kept.parent, FINGERPRINT) is not None


def changed(content: dict[str, Any], *path: str, value: object) -> dict[str, Any]:
    inner = content
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), 0),
        (("fingerprint", "threads"), 64),
        (("fingerprint",), None),
        (("costs",), None),
        (("costs", "blocks", "single", "row_ms"), -1),
        (("costs", "kinds"), ["double"]),
    ],
)
def test_an_old_or_foreign_file(
    kept: Path, path: tuple[str, ...], value: object, caplog: pytest.LogCaptureFixture
) -> None:
    kept.write_text(json.dumps(changed(json.loads(kept.read_text()), *path, value=value)))
    assert read_costs(kept.parent, FINGERPRINT) is None
    assert "measured anew" in caplog.text


def test_a_folder_that_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "file"
    folder.write_bytes(b"")
    write_costs(folder, FINGERPRINT, a_model())
    assert "cannot be kept" in caplog.text
    assert read_costs(folder, FINGERPRINT) is None
