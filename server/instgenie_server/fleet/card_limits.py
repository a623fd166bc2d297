"""How large the batches of a replica are, by its card."""

from __future__ import annotations

from instgenie.orders import ModelCard
from instgenie.sched.limits import BatchLimits


def limits_of(card: ModelCard) -> BatchLimits:
    """Those that it tells, and what is usual in place of those that it does not."""
    usual = BatchLimits()
    return BatchLimits(edits=max(0, card.batch_edits) or usual.edits, rows=max(0, card.batch_tokens) or usual.rows)
