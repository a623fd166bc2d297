"""Whether one more edit may wait: counted in predicted seconds of work, since edits differ hundredfold."""

from __future__ import annotations

from instgenie_server.api_error import ApiError, busy

ROUNDING = 1e-9  # relative: sums of seconds must not refuse at the limit itself


def refusal(
    waiting_seconds: float, order_seconds: float, limit_seconds: float, seconds_per_second: float = 1.0
) -> ApiError | None:
    """Why the order must not wait; None admits it.

    An order that exceeds the limit alone is admitted once nothing waits, or it never would be.

    Args:
        waiting_seconds: predicted work that is accepted and not done.
        order_seconds: predicted work of the new order.
        limit_seconds: how much may wait, the new order included.
        seconds_per_second: work that is done in a second: the number of replicas.
    """
    if waiting_seconds <= 0 or waiting_seconds + order_seconds <= limit_seconds * (1 + ROUNDING):
        return None
    excess_seconds = min(waiting_seconds + order_seconds - limit_seconds, waiting_seconds)
    return busy(
        f"{waiting_seconds:.1f} s of work wait; with the {order_seconds:.1f} s of this edit that exceeds the limit of "
        f"{limit_seconds:g} s",
        retry_after=excess_seconds / seconds_per_second,
    )
