"""What the eviction policies save: a stream of edits replayed over caches of several budgets.

970 templates, as many as in a published production trace, are asked for by a Zipf law with exponent 1.1: the one of
rank r with a probability in proportion to r^-1.1, each request for itself. Popularity does not change meanwhile, which
is the best case for counting uses (lfu) and makes the ageing of gdsf a loss. Everything is drawn with fixed seeds, and
several times, for much depends on what the few most popular templates are drawn to be.

Policies that look at sizes and costs can only differ from the others where both vary, so they do, in the ways that they
do in earnest. A template has 512, 768 or 1024 pixels a side, 20, 28 or 50 steps, a codec of 1 or 2 bytes a value, and
keeps the records of 30 to 100 % of its steps (keyframes). Its bytes are in proportion to the image's tokens, the steps
that it keeps and the codec; the time to compute it again to all of its steps, to its tokens and, for attention, their
square. Templates differ 50 times in bytes and 8 times in milliseconds per byte, whatever their popularity.

A cache holds whole templates and begins empty, so that first requests are misses in every row. A template that is
larger than the budget is never cached.

    python scripts/bench/eviction.py [--requests 100000] [--draws 5] [--json OUT]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from statistics import mean
from typing import get_args

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.environment import environment
from instgenie_cache.eviction import EvictionPolicy, PolicyName
from instgenie_cache.policies import make_policy

TEMPLATES = 970
EXPONENT = 1.1
BUDGET_SHARES = (0.05, 0.10, 0.25)
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)

# Of Flux, 57 blocks of 24 heads x 128 and 12 billion parameters, at 400 TFLOP/s. Only ratios count.
BYTES_PER_TOKEN_AND_STEP = 57 * 2 * 24 * 128
MS_PER_TOKEN_AND_STEP = 0.06
ATTENTION_TOKENS = 16_384  # with so many, attention takes as long as the matrix products, at half their TFLOP/s


@dataclass(frozen=True, slots=True)
class Template:
    """What a cache knows of a template: its bytes and the milliseconds to compute it again."""

    num_bytes: int
    cost_ms: float


@dataclass(frozen=True, slots=True)
class Saved:
    """What a cache made of a stream.

    Attributes:
        bytes_saved: byte hit ratio: share of the bytes asked for that the cache had.
        compute_saved: share of the milliseconds that the requests would have taken without a cache.
        hits: share of the requests.
        evictions: per request.
    """

    bytes_saved: float
    compute_saved: float
    hits: float
    evictions: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy saved in one draw, with a budget of that share of all templates' bytes."""

    seed: int
    policy: PolicyName
    budget_share: float
    saved: Saved


def draw_templates(count: int, rng: np.random.Generator) -> list[Template]:
    """Templates as the module describes them, by popularity, which the draw does not depend on."""
    tokens = (rng.choice([512, 768, 1024], count) // 16) ** 2
    steps = rng.choice([20, 28, 50], count)
    codec_bytes = rng.choice([1, 2], count)
    kept_steps = np.ceil(steps * rng.uniform(0.3, 1.0, count)).astype(np.int64)
    num_bytes = tokens * kept_steps * codec_bytes * BYTES_PER_TOKEN_AND_STEP
    cost_ms = MS_PER_TOKEN_AND_STEP * steps * tokens * (1 + tokens / ATTENTION_TOKENS)
    return [Template(int(size), float(cost)) for size, cost in zip(num_bytes, cost_ms, strict=True)]


def draw_requests(count: int, templates: int, rng: np.random.Generator) -> list[int]:
    """Which template each request asks for, by its rank from 0."""
    weights = np.arange(1, templates + 1) ** -EXPONENT
    return [int(rank) for rank in rng.choice(templates, count, p=weights / weights.sum())]


def replay(name: PolicyName, templates: Sequence[Template], requests: Sequence[int], budget_bytes: int) -> Saved:
    """Serve the requests, of which there is one at least, from a cache of so many bytes."""
    policy: EvictionPolicy[int] = make_policy(name)
    cached: set[int] = set()
    free_bytes = budget_bytes
    hits = evictions = saved_bytes = asked_bytes = 0
    saved_ms = asked_ms = 0.0
    for rank in requests:
        template = templates[rank]
        asked_bytes += template.num_bytes
        asked_ms += template.cost_ms
        if rank in cached:
            policy.touch(rank)
            hits += 1
            saved_bytes += template.num_bytes
            saved_ms += template.cost_ms
        elif template.num_bytes <= budget_bytes:
            while free_bytes < template.num_bytes:
                victim = next(policy.ranked())
                policy.remove(victim, evicted=True)
                cached.remove(victim)
                free_bytes += templates[victim].num_bytes
                evictions += 1
            policy.insert(rank, template.num_bytes, template.cost_ms)
            cached.add(rank)
            free_bytes -= template.num_bytes
    return Saved(saved_bytes / asked_bytes, saved_ms / asked_ms, hits / len(requests), evictions / len(requests))


def compare(requests: int, seed: int, templates: int = TEMPLATES) -> list[Outcome]:
    """Every policy at every budget, over the same stream."""
    rng = np.random.default_rng(seed)
    drawn = draw_templates(templates, rng)
    stream = draw_requests(requests, templates, rng)
    total_bytes = sum(template.num_bytes for template in drawn)
    return [
        Outcome(seed, name, share, replay(name, drawn, stream, int(share * total_bytes)))
        for share in BUDGET_SHARES
        for name in POLICIES
    ]


def average(outcomes: Sequence[Outcome], policy: PolicyName, budget_share: float) -> Saved:
    """The mean over the draws."""
    rows = [astuple(o.saved) for o in outcomes if (o.policy, o.budget_share) == (policy, budget_share)]
    return Saved(*map(mean, zip(*rows, strict=True)))


def table(outcomes: Sequence[Outcome], title: str) -> Table:
    """The averages for people, the best of a budget in bold."""
    shown = Table(title=title)
    for column in ("budget", "policy", "bytes saved", "compute saved", "hits", "evictions"):
        shown.add_column(column, justify="left" if column in ("budget", "policy") else "right")
    for share in BUDGET_SHARES:
        rows = {policy: average(outcomes, policy, share) for policy in POLICIES}
        best_bytes = max(row.bytes_saved for row in rows.values())
        best_compute = max(row.compute_saved for row in rows.values())
        for policy, row in rows.items():
            shown.add_row(
                f"{share:.0%}",
                policy,
                _percent(row.bytes_saved, best_bytes),
                _percent(row.compute_saved, best_compute),
                f"{row.hits:.1%}",
                f"{row.evictions:.1%}",
            )
        shown.add_section()
    return shown


def _percent(value: float, best: float) -> str:
    text = f"{value:.1%}"
    return f"[bold]{text}[/bold]" if value == best else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000, help="of a draw")
    parser.add_argument("--draws", type=int, default=5, help="of templates and requests, each with its own seed")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if min(options.requests, options.draws) < 1:
        parser.error("--requests and --draws are 1 at least")
    outcomes = [outcome for seed in range(options.draws) for outcome in compare(options.requests, seed)]
    title = f"{options.draws} x {options.requests:,} requests, Zipf({EXPONENT}) over {TEMPLATES} templates"
    Console().print(table(outcomes, title))
    if options.json:
        about = {"requests": options.requests, "draws": options.draws, "templates": TEMPLATES, "exponent": EXPONENT}
        content = {"about": about, "environment": environment(), "results": [asdict(row) for row in outcomes]}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
