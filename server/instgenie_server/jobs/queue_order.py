"""Which of the waiting jobs goes first."""

from __future__ import annotations

AGEING_SECONDS = 30.0

OrderKey = tuple[float, float, str]


def order_key(job_id: str, priority: int, created_at: float) -> OrderKey:
    """The smallest key goes first.

    Priority ages: a waiting job gains one level every `AGEING_SECONDS`, so all of them rise alike and their order
    never changes while they wait. One level is thus worth a head start of `AGEING_SECONDS`, and a job can only be
    overtaken by those accepted within `AGEING_SECONDS` times the difference of their priorities: none starves.
    """
    return (created_at - priority * AGEING_SECONDS, created_at, job_id)
