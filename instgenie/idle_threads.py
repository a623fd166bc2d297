"""How threads of torch's operations on a CPU wait for the next operation. Imports no torch: it has to come before."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

_NAME = "OMP_WAIT_POLICY"


def let_idle_threads_sleep(environ: MutableMapping[str, str] = os.environ) -> None:
    """Have them sleep. To be called before torch is imported; whoever set the variable, or GOMP_SPINCOUNT, is obeyed.

    By default they spin, and on cores that have other work, too, they take it the time: beside one other busy process
    on two cores an edit took 15 to 25 times as long as with threads that sleep.
    """
    if "GOMP_SPINCOUNT" not in environ:
        environ.setdefault(_NAME, "PASSIVE")
