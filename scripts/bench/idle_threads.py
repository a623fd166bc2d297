"""To be imported before torch by a benchmark that runs edits: threads wait as they do in the product."""

from __future__ import annotations

from instgenie.idle_threads import let_idle_threads_sleep

let_idle_threads_sleep()
