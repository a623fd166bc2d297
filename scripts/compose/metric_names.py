"""Metrics that queries name, and those that a server has."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

_SUFFIXES = {"counter": ("_total", "_created"), "histogram": ("_bucket", "_sum", "_count", "_created"), "gauge": ("",)}


def metrics_named_in(text: str) -> set[str]:
    """Ours, in rules or a dashboard."""
    return set(re.findall(r"\binstgenie_[a-z0-9_]+", text))


def families(exposition: str) -> Mapping[str, float]:
    """Names that queries may use, those without a sample yet too, to the sums of their samples."""
    sums: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(exposition):
        for suffix in _SUFFIXES.get(family.type, ("",)):
            sums[family.name + suffix] += 0
        for sample in family.samples:
            sums[sample.name] += sample.value
    return sums
