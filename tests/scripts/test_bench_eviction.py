"""The comparison of eviction policies: its streams are what it says, and its books are right."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.eviction import (
    BUDGET_SHARES,
    POLICIES,
    Saved,
    Template,
    compare,
    draw_requests,
    draw_templates,
    main,
    replay,
)
from instgenie_cache.eviction import PolicyName

SMALL, LARGE, DEAR = Template(10, 1.0), Template(40, 1.0), Template(10, 100.0)


def test_what_the_cache_had_is_saved() -> None:
    saved = replay("lru", [SMALL, LARGE], [0, 0, 1, 1, 0], budget_bytes=50)
    assert saved == Saved(bytes_saved=60 / 110, compute_saved=3 / 5, hits=3 / 5, evictions=0.0)


def test_template_larger_than_the_budget_is_never_cached() -> None:
    saved = replay("gdsf", [LARGE, SMALL], [1, 0, 0, 0, 1], budget_bytes=39)
    assert saved == Saved(bytes_saved=10 / 140, compute_saved=1 / 5, hits=1 / 5, evictions=0.0)


def test_policies_evict_as_they_say() -> None:
    """Three templates of which two fit: the third takes the place of another one in each policy."""
    stream = [0, 0, 1, 2]
    costs = [SMALL, DEAR, SMALL]
    kept = {
        policy: [rank for rank in (0, 1) if replay(policy, costs, [*stream, rank], 20).hits == 2 / 5]
        for policy in POLICIES
    }
    assert kept == {"lru": [1], "lfu": [0], "gdsf": [1]}


def test_streams_are_zipf_and_repeatable() -> None:
    first, again = (draw_requests(50_000, 970, np.random.default_rng(1)) for _ in "ab")
    assert first == again
    counts = np.bincount(first, minlength=970)
    assert len(counts) == 970
    assert counts[0] / counts[1] == pytest.approx(2**1.1, rel=0.1)
    assert counts[0] / counts[9] == pytest.approx(10**1.1, rel=0.2)


def test_templates_vary_in_size_and_in_cost_by_size() -> None:
    templates = draw_templates(970, np.random.default_rng(1))
    sizes = [template.num_bytes for template in templates]
    dearness = [template.cost_ms / template.num_bytes for template in templates]
    assert 40 < max(sizes) / min(sizes) < 60
    assert 6 < max(dearness) / min(dearness) < 10


@pytest.mark.parametrize("policy", POLICIES)
def test_larger_budgets_save_more(policy: PolicyName) -> None:
    saved = [outcome.saved for outcome in compare(2_000, seed=3, templates=100) if outcome.policy == policy]
    assert len(saved) == len(BUDGET_SHARES)
    assert 0 < saved[0].bytes_saved < saved[1].bytes_saved < saved[2].bytes_saved < 1
    assert 0 < saved[0].compute_saved < saved[1].compute_saved < saved[2].compute_saved < 1


def test_table_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "eviction.json"
    monkeypatch.setattr(sys, "argv", ["eviction.py", "--requests", "500", "--draws", "2", "--json", str(path)])
    main()
    printed = capsys.readouterr().out
    assert all(printed.count(policy) == len(BUDGET_SHARES) for policy in POLICIES)
    content = json.loads(path.read_text())
    assert set(content) == {"about", "environment", "results"}
    assert len(content["results"]) == 2 * len(BUDGET_SHARES) * len(POLICIES)
    assert {row["seed"] for row in content["results"]} == {0, 1}
